"""What NICO and ImageNet-9 share: pictures by class, read as the authors read them, and parts of a split by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...._errors import InputError, missing_extra
from .._bundle import Split
from .._image import EXTENSIONS
from .._walk import Found, Passed, files_below
from ..folder import _Files, unreadable

__all__ = ["Picture", "Pictures", "pictures_below", "readable", "transforms_of"]


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


def pictures_below(folder: Path, passed: Passed) -> Found:
    """Pictures in a folder and those below it.

    Raises:
        ValueError: most of what lies there is in a form that is not read.
    """
    own = Passed()
    found = files_below(folder, EXTENSIONS, own)
    if found.files:
        own.check(len(found.files), str(folder))
    passed.merge(own)
    return found


def readable(pictures: list[Picture], notes: list[str]) -> list[Picture]:
    """Those that can be decoded; a note names the others."""
    problems = unreadable([picture.path for picture in pictures], notes)
    return [picture for picture in pictures if picture.path not in problems]


def transforms_of() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise missing_extra("torchvision", "train", "a folder of images") from error
    return v2


def checked(split: Split, what: str, notes: Sequence[str] = ()) -> Split:
    """The split, which must hold something; the error shows what notes say of it."""
    if not len(split):
        said = "".join(f"; {note}" for note in notes)
        raise InputError(f"{what} has no images{' that can be read' if notes else ''}; expected files ending in {', '.join(sorted(EXTENSIONS))}{said}")
    return split
