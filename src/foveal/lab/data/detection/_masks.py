"""Masks as COCO keeps them, looked at before anything is allocated for them: polygons, and run lengths as numbers or packed in text."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError, missing_extra
from .._foreign import is_real

__all__ = ["decode_mask", "look_at_mask", "unpacked"]


def look_at_mask(segmentation: Any, height: int, width: int) -> bool:
    """Whether there may be a pixel of the mask in an image of this size.

    Args:
        segmentation: polygons ``[[x, y, x, y, …], …]``, or ``{"size": [height, width], "counts": […] or "…"}``.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: it is no mask of such an image; the message says why and is to be put behind the name of the annotation.
    """
    if isinstance(segmentation, list):
        # every one is looked at, also behind one that is there
        return sum(_look_at_polygon(polygon, height, width) for polygon in segmentation) > 0
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise InputError("expected polygons, or size and counts of run lengths")
    size = segmentation.get("size")
    # 480.0 is equal to 480, and yet no size to what decodes
    if size != [height, width] or not all(type(side) is int for side in size):
        shown = repr(size) if isinstance(size, list) and len(size) == 2 else "no two numbers"
        raise InputError(f"its size is {shown}; expected that of its image, [{height}, {width}]")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = unpacked(counts)
    if not isinstance(counts, list) or any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
        raise InputError("its counts are no lengths of runs; expected whole numbers from 0 on")
    if sum(counts) != height * width:
        raise InputError(f"its run lengths add up to {sum(counts)}; expected {height * width}, the pixels of its image")
    return any(counts[1::2])


def _look_at_polygon(polygon: Any, height: int, width: int) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(is_real, polygon)):
        held = f"{len(polygon)} values" if isinstance(polygon, list) else type(polygon).__name__
        raise InputError(f"a polygon of it has {held}; expected finite numbers x, y, x, y, … of 3 points or more")
    across, down = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(across), max(across), min(down), max(down)
    # how long its border is decides how much memory is taken for it
    if min(left + width, top + height) < 0 or right > 2 * width or bottom > 2 * height:
        raise InputError(f"a polygon of it goes from ({left}, {top}) to ({right}, {bottom}), far beyond its image of {width}×{height}")
    return bool(left < width and top < height and right > 0 and bottom > 0)


def unpacked(text: str) -> list[int]:
    """Run lengths out of COCO's text: five bits a character, the sixth says that the number goes on; from the third number on, differences to the last but one.

    Raises:
        ValueError: it is no such text.
    """
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 50:
            raise InputError("its packed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError("its packed run lengths are cut off")
    return counts


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """``(H, W)`` of a mask that was looked at.

    Raises:
        ValueError: the package that decodes is not installed, or refuses it.
    """
    try:
        from faster_coco_eval.core import mask as coco
    except ImportError as error:
        raise missing_extra("faster-coco-eval", "det", "reading masks in COCO's format") from error
    try:
        if isinstance(segmentation, list):
            packed = coco.merge(coco.frPyObjects(segmentation, height, width))
        else:
            packed = coco.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation
        mask: NDArray[np.bool_] = coco.decode(packed).astype(bool)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise InputError(f"cannot be read: {error}") from error
    return mask
