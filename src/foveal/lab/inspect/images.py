"""Images that are looked at, read as the data sets read theirs."""

from pathlib import Path
from typing import Any

from ..data._image import open_rgb

__all__ = ["open_image", "open_pair"]


def open_image(path: Path, *, upright: bool = True) -> Any:
    """A PIL image of three times eight bits.

    Raises:
        ValueError: no image, a damaged one, or one whose values have no stated meaning.
    """
    return open_rgb(path, f"the image {path}", upright=upright, hint="give another one")


def open_pair(left: Path, right: Path) -> list[Any]:
    """Left and right of a rectified pair, which lies as it is stored.

    Raises:
        ValueError: see :func:`open_image`.
    """
    return [open_image(path, upright=False) for path in (left, right)]
