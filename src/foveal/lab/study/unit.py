"""One run of a study, and the file that it leaves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..training.reading import Damaged, read_object
from .registration import Layer, Part

__all__ = ["Unit", "read_unit"]


@dataclass(frozen=True)
class Unit:
    """One run."""

    part: Part
    setting: str
    arm: str
    layer: Layer
    rate: float
    seed: int

    @property
    def place(self) -> Path:
        setting = self.setting.replace(" ", "-") or "all"
        return Path(self.part.name, setting, self.arm, f"rate-{self.rate:g}", f"seed-{self.seed}")

    def file(self, folder: Path) -> Path:
        return folder / self.place.parent / f"{self.place.name}.json"

    def __str__(self) -> str:
        return " ".join(word for word in (self.part.name, self.setting, self.arm, f"rate {self.rate:g}", f"seed {self.seed}") if word)


def read_unit(unit: Unit, folder: Path) -> dict[str, Any]:
    """What a run left: its ``values`` by metric, none where it diverged, and ``seconds``.

    Raises:
        ValueError: the file is damaged, or not there.
    """
    path = unit.file(folder)
    again = f"remove {path}, and the same command makes it again"
    found = read_object(path, ("values", "seconds"), again)
    if not isinstance(found["values"], dict) or not all(isinstance(value, (int, float)) for value in found["values"].values()):
        raise Damaged(f"{path} is damaged: values are {found['values']!r}; {again}")
    return found
