"""Files of regions, several for one set: whether they are of one kind, and hold all images."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...._errors import InputError

__all__ = ["open_all"]


def open_all(root: Path, names: Sequence[str], images: Iterable[str], what: str, opened: Callable[[Path], Any]) -> tuple[list[Any], int]:
    """The files, and F, the numbers of a region's features.

    Args:
        root: the folder that names begin in.
        names: of the files.
        images: that must be in one of them.
        what: they are images of, for the message.
        opened: opens a file.

    Raises:
        ValueError: no file; features of several widths; images without regions. And what ``opened`` raises.
    """
    stores = [opened(root / name) for name in names]
    dims = {store.region_dim for store in stores}
    if len(dims) != 1:
        raise InputError(f"expected regions of one kind, got features of {', '.join(map(str, sorted(dims))) or 'no'} numbers in {', '.join(names)}")
    if missing := sorted({image for image in images if not any(image in store for store in stores)}):
        raise InputError(f"{len(missing)} images of {what} have no regions in {', '.join(names)}, such as {missing[0]}; give their files too")
    return stores, dims.pop()
