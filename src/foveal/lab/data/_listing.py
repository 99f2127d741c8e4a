"""A folder of class folders with a million files, listed in little memory and without looking into any."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..._errors import InputError
from ._image import EXTENSIONS
from ._splits import different_names, split_of
from ._walk import Passed, folders_in, is_hidden

__all__ = ["Listing", "list_classes", "shared_files"]


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
    inodes: NDArray[np.uint64]
    """What the file system knows each file by; of a link, that of the file it leads to."""

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


def list_classes(root: Path, passed: Passed) -> Listing:
    """The images ``root/CLASS/*``, classes and files in the order of their names.

    Args:
        root: folder of the class folders.
        passed: is told what is passed over: hidden files, other endings, folders inside of class folders.

    Raises:
        ValueError: fewer than two class folders; one without images, or most of which is in a form that is not read; names that hardly differ or are splits'.
    """
    own = Passed()
    classes = sorted(child.name for child in folders_in(root, own, EXTENSIONS))
    if len(classes) < 2:
        loose = "; the images lie there unsorted: move each into the folder of its class" if any(_is_image(child.name) for child in root.iterdir()) else ""
        raise InputError(f"{root} has {len(classes)} class folders; expected at least 2, {root}/CLASS/*.JPEG{loose}")
    different_names(classes, root)
    if all(map(split_of, classes)):
        raise InputError(f"{root} has {', '.join(classes)} in the place of classes, which are names of splits; expected {root}/CLASS/*.JPEG")
    found = [_files_of(root / name, passed) for name in classes]
    empty = [name for name, files in zip(classes, found, strict=True) if not files]
    if empty:
        raise InputError(f"{root}: no images for {', '.join(empty[:5])}; expected files ending in {', '.join(sorted(EXTENSIONS))}, or remove the empty folders")
    every, inodes = [name for files in found for name, _ in files], [number for files in found for _, number in files]
    own.check(len(every), str(root))
    passed.merge(own)
    return Listing(
        root=root,
        classes=classes,
        names=b"".join(every),
        ends=np.cumsum([len(name) for name in every], dtype=np.int64),
        labels=np.repeat(np.arange(len(classes)), [len(files) for files in found]).astype(np.int64),
        inodes=np.array(inodes, np.uint64),
    )


def shared_files(parts: Mapping[str, Listing]) -> list[str]:
    """Notes on files that stand twice in a class of one part, by a link.

    Raises:
        ValueError: a file is in two parts, or in two classes of one.
    """
    notes = []
    for name, part in parts.items():
        order = np.argsort(part.inodes, kind="stable")
        same = np.flatnonzero(part.inodes[order[1:]] == part.inodes[order[:-1]])
        twice = 0
        for first, second in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
            # two disks may use one number
            if not os.path.samefile(part.path(first), part.path(second)):
                continue
            if part.labels[first] != part.labels[second]:
                raise _both(part.path(second), part.path(first))
            twice += 1
        if twice:
            notes.append(f"{twice} files of {name} are links to others of the same class, and count twice")
    for (_, one), (_, other) in combinations(parts.items(), 2):
        _, mine, theirs = np.intersect1d(one.inodes, other.inodes, return_indices=True)
        for here, there in zip(mine.tolist(), theirs.tolist(), strict=True):
            if os.path.samefile(one.path(here), other.path(there)):
                raise _both(one.path(here), other.path(there))
    return notes


def _both(one: Path, other: Path) -> InputError:
    return InputError(f"{one} and {other} are one file, by a link; a file must be in one split and in one class only: remove the link")


def _files_of(folder: Path, passed: Passed) -> list[tuple[bytes, int]]:
    """Names and inodes of the images of a class, in the order of the names."""
    own, names = Passed(), list[tuple[bytes, int]]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                own.add("hidden or left behind by a system", entry.path)
            elif _is_image(entry.name):
                number = _inode(entry)
                if number is None:
                    own.add("no regular file, or a link to what is not there", entry.path, lost=True)
                else:
                    names.append((os.fsencode(entry.name), number))
            elif entry.is_dir():
                own.add("folders inside of class folders, which are not looked into", entry.path, lost=True)
            else:
                own.ending(entry.name, entry.path)
    if names:
        own.check(len(names), str(folder))
    passed.merge(own)
    return sorted(names)


def _inode(entry: os.DirEntry[str]) -> int | None:
    """None if it is no regular file. Only links need a look at the disk."""
    try:
        if not entry.is_file():
            return None
        return entry.stat().st_ino if entry.is_symlink() else entry.inode()
    # a link that leads to itself
    except OSError:
        return None


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")
