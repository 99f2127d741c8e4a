"""What all parts share: the device, how much time is left, and what was found."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from foveal.bench import Row, Settings, run_bench

__all__ = ["Lane", "OutOfTime", "Part"]


class OutOfTime(Exception):
    """There is no time left for more; what was measured is kept."""


@dataclass
class Lane:
    """A run of the lane."""

    device: torch.device
    smoke: bool
    until: float
    """By :func:`time.monotonic`."""
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)
    """Parts that were not finished, and why."""
    wrong: list[str] = field(default_factory=list)
    """What does not compute what it should."""
    ceilings: dict[str, float] = field(default_factory=dict)

    def look_at_the_clock(self) -> None:
        if time.monotonic() > self.until:
            raise OutOfTime

    def add(self, part: str, **row: Any) -> None:
        self.parts.setdefault(part, []).append(row)
        print(f"{part:<12} " + "  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()), flush=True)

    def bench(self, part: str, **settings: Any) -> None:
        """Rows of :func:`foveal.bench.run_bench`, each kept as it comes."""

        def each(row: Row) -> None:
            kept = {name: value for name, value in asdict(row).items() if name not in ("unit", "parameters")}
            self.add(part, **kept, training=settings.get("training", False), batch=settings.get("batch", 1))
            if row.refused:
                self.wrong.append(f"{row.name}, {row.size} {row.unit}, {row.precision}, {row.mode}: {row.refused}")
            self.look_at_the_clock()

        self.look_at_the_clock()
        # a processor's peak is of a process of its own for every row, too slow for a rehearsal
        given = {"rounds": 1, "seconds": 0.01} if self.smoke else {"rounds": 3, "seconds": 0.05}
        done = run_bench(Settings(**given, memory=self.device.type != "cpu", **settings), each=each, device=self.device)
        self.ceilings |= done.ceilings


Part = Callable[[Lane], None]
