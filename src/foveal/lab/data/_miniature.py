"""Miniatures of sets that are not at hand: files in the true format, made of what lies inside wheels, so that a training goes through its own reader.

They are written once into the cache. Numbers of a run on them say nothing of the set; that the run ends says that it can be run.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._errors import missing_extra
from ..._files import check_folder
from ._fetch import cache_folder

__all__ = ["image_folder", "miniature", "save"]

_VERSION = 1
"""To be raised when what is written changes: what lies in a cache is not written again."""

Pixels = NDArray[Any]


def miniature(name: str, write: Callable[[Path], None]) -> Path:
    """The folder of a miniature in the cache, made if it is not there. Two processes may ask for it at the same time.

    Args:
        name: of the folder; what decides the content must be in it.
        write: puts the files into the empty folder that it is given.

    Raises:
        ValueError: the cache is a file.
    """
    target = cache_folder() / "miniatures" / f"{name}-{_VERSION}"
    if not target.is_dir():
        check_folder(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as work:
            made = Path(work) / "made"
            made.mkdir()
            write(made)
            try:
                made.rename(target)
            except OSError:
                # a folder with files in it is not replaced: another process was first, and its files are the same
                if not target.is_dir():
                    raise
    return target


def save(path: Path, pixels: Pixels, *, palette: Sequence[int] | None = None) -> None:
    """An image file of bytes ``(H, W, 3)``, or of bytes or 16-bit numbers ``(H, W)``; with a palette, the bytes are its indices."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "train", "writing images") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if palette is not None:
        image.putpalette(list(palette))
    image.save(path)


def image_folder(per_class: int = 4) -> Path:
    """Handwritten digits as ``train/CLASS/*.png`` and ``val/CLASS/*.png``."""

    def write(root: Path) -> None:
        from .digits import load_digits

        images, labels = load_digits("digits")
        for label in range(10):
            members = np.flatnonzero(labels == label)
            for part, chosen in (("train", members[:per_class]), ("val", members[per_class : per_class + 2])):
                for index in chosen:
                    large = images[index].repeat(5, 0).repeat(5, 1)
                    save(root / part / str(label) / f"{index}.png", np.stack([large] * 3, -1))

    return miniature(f"image-folder-{per_class}", write)
