"""What NICO and ImageNet-9 share: pictures by class, read as the authors read them, and parts of a split by name."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._errors import InputError, missing_extra
from .._bundle import Split
from ..folder import EXTENSIONS, _Files, _problem

__all__ = ["Picture", "Pictures", "is_picture", "readable", "transforms_of"]


@dataclass(frozen=True, order=True)
class Picture:
    """A file with its class and the context that its folder or its name gives."""

    label: str
    context: str
    path: Path


class Pictures(_Files):
    """A split, in the order of its pictures."""

    def __init__(self, pictures: Sequence[Picture], classes: list[str], transform: Callable[..., Tensor], root: Path, *, augments: bool = False) -> None:
        super().__init__({}, [], transform, augments=augments)
        self.files = [(picture.path, classes.index(picture.label)) for picture in pictures]
        self._root = root
        self.contexts = [picture.context for picture in pictures]

    @property
    def names(self) -> list[str]:
        """Paths below the root, the same on another machine."""
        return [file.relative_to(self._root).as_posix() for file, _ in self.files]


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def readable(pictures: list[Picture], notes: list[str]) -> list[Picture]:
    """Those that can be decoded; a note names the others."""
    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(_problem, [picture.path for picture in pictures]))
    bad = [f"{picture.path} ({problem})" for picture, problem in zip(pictures, problems, strict=True) if problem]
    if bad:
        notes.append(f"{len(bad)} unreadable images were left out: {'; '.join(bad)}")
    return [picture for picture, problem in zip(pictures, problems, strict=True) if not problem]


def transforms_of() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise missing_extra("torchvision", "train", "a folder of images") from error
    return v2


def checked(split: Split, what: str) -> Split:
    """The split, which must hold something."""
    if not len(split):
        raise InputError(f"{what} has no images; expected files ending in {', '.join(sorted(EXTENSIONS))}")
    return split
