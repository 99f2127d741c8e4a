"""A folder of class folders with a million files, listed in little memory and without looking into any."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._errors import InputError
from .folder import EXTENSIONS

__all__ = ["Listing", "list_classes"]


@dataclass(frozen=True)
class Listing:
    """Images that lie in class folders.

    The names are one piece of memory: a million objects would be copied into every process that reads, at the pace at which Python counts references.
    """

    root: Path
    classes: list[str]
    names: bytes
    """Of all files, one behind the other."""
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        start = int(self.ends[index - 1]) if index else 0
        return self.root / self.classes[int(self.labels[index])] / os.fsdecode(self.names[start : int(self.ends[index])])

    def read(self, index: int) -> bytes:
        """The file of an image.

        Raises:
            ValueError: it is gone or may not be read.
        """
        try:
            return self.path(index).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {self.path(index)}: {error}; do not change a folder that is in use") from error

    def name(self, index: int) -> str:
        return str(self.path(index))


def list_classes(root: Path) -> Listing:
    """The images ``root/CLASS/*``, classes and files in the order of their names.

    Raises:
        ValueError: fewer than two class folders; one without images.
    """
    classes = sorted(child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if len(classes) < 2:
        loose = "; the images lie there unsorted: move each into the folder of its class" if any(_is_image(child.name) for child in root.iterdir()) else ""
        raise InputError(f"{root} has {len(classes)} class folders; expected at least 2, {root}/CLASS/*.JPEG{loose}")
    found = [sorted(os.fsencode(entry.name) for entry in os.scandir(root / name) if _is_image(entry.name)) for name in classes]
    empty = [name for name, files in zip(classes, found, strict=True) if not files]
    if empty:
        raise InputError(f"{root}: no images for {', '.join(empty[:5])}; expected files ending in {', '.join(sorted(EXTENSIONS))}, or remove the empty folders")
    every = [name for files in found for name in files]
    return Listing(
        root=root,
        classes=classes,
        names=b"".join(every),
        ends=np.cumsum([len(name) for name in every], dtype=np.int64),
        labels=np.repeat(np.arange(len(classes)), [len(files) for files in found]).astype(np.int64),
    )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")
