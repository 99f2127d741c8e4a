"""A scene: things on a background, of which none hides another, where a condition on their boxes holds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from ..cutouts import fitted
from ..detection.cutouts import BACKGROUNDS, _photograph
from ._things import Source

__all__ = ["RELATIONS", "Backgrounds", "Boxes", "Condition", "compose", "holds", "larger"]

Boxes = NDArray[np.int64]
"""Left, top, right, bottom, in pixels, a row for each thing."""
Condition = Callable[[Boxes], bool]
RELATIONS = ("above", "below", "left of", "right of")
"""Each with its opposite beside it: that of ``n`` is ``n ^ 1``."""
_SMALLEST, _LARGEST, _TRIES = 0.22, 0.42, 3_000


def holds(boxes: Boxes, relation: int, first: int, second: int) -> bool:
    """Whether one thing is so to another beyond doubt: apart along the one axis, and by less along the other."""
    way = (boxes[second, :2] + boxes[second, 2:] - boxes[first, :2] - boxes[first, 2:]) / 2
    axis, sign = (1 if relation < 2 else 0), (1 if relation % 2 == 0 else -1)
    apart = boxes[second, axis] - boxes[first, 2 + axis] if sign > 0 else boxes[first, axis] - boxes[second, 2 + axis]
    return bool(apart >= 0 and abs(way[axis]) > 1.5 * abs(way[1 - axis]))


def larger(boxes: Boxes, first: int, second: int) -> bool:
    """Whether the longer side of one thing is so by a third. Areas are not asked: a thing that is long and thin could be larger than none."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return bool(sides[first].max() >= 4 / 3 * sides[second].max())


class Backgrounds:
    """Squares of photographs, or smooth colors."""

    def __init__(self, source: Source, split: str) -> None:
        self._photos = [_photograph(name) for name in BACKGROUNDS[split]] if source == "stamps" else []

    def draw(self, rng: np.random.Generator, side: int) -> Tensor:
        """``(3, side, side)`` from 0 to 1."""
        if not self._photos:
            coarse = torch.from_numpy(0.4 * rng.random((1, 3, 3, 3), dtype=np.float32))
            return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)[0]
        photo = self._photos[int(rng.integers(len(self._photos)))]
        length = int(min(photo.shape[1:]) * rng.uniform(0.5, 1.0))
        top, left = (int(rng.integers(0, size - length + 1)) for size in photo.shape[1:])
        square = photo[None, :, top : top + length, left : left + length].float() / 255
        small = torch.nn.functional.interpolate(square, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]
        return small.flip(-1) if rng.random() < 0.5 else small


def compose(rng: np.random.Generator, background: Tensor, pixels: Sequence[Tensor], mirrors: Sequence[bool], fits: Condition) -> tuple[Tensor, Boxes]:
    """A scene and the boxes of its things.

    Args:
        rng: decides it.
        background: ``(3, S, S)``, written on.
        pixels: color and alpha of each thing, of any size.
        mirrors: whether each may be mirrored.
        fits: what must hold of the boxes.

    Raises:
        ValueError: no place was found in many tries: the condition asks too much of so many things.
    """
    side = background.shape[-1]
    boxes = _places(rng, side, [tuple(each.shape[1:]) for each in pixels], fits)
    for cutout, mirror, (left, top, right, bottom) in zip(pixels, mirrors, boxes.tolist(), strict=True):
        thing = fitted(cutout, max(right - left, bottom - top), mirrored=bool(mirror and rng.random() < 0.5))
        place = np.s_[:, top : top + thing.shape[1], left : left + thing.shape[2]]
        background[place] = thing[:3] + (1 - thing[3:]) * background[place]
    return background.clamp_(0, 1), boxes


def _places(rng: np.random.Generator, side: int, shapes: Sequence[Any], fits: Condition) -> Boxes:
    count = len(shapes)
    heights, widths = np.array(shapes, dtype=np.float64).reshape(count, 2).T
    for attempt in range(_TRIES):
        # many things need small ones before a place is found
        longest = side * rng.uniform(_SMALLEST, _LARGEST, count) * max(0.6, 1 - attempt / 300)
        scale = longest.astype(int) / np.maximum(heights, widths)
        sizes = np.maximum(1, np.rint(np.stack([widths, heights], 1) * scale[:, None]).astype(np.int64))
        corners = (rng.random((count, 2)) * (side - sizes + 1)).astype(np.int64)
        boxes = np.concatenate([corners, corners + sizes], 1)
        if _apart(boxes) and fits(boxes):
            return boxes
    raise InputError(f"no place was found for {count} things on {side}×{side} pixels in {_TRIES} tries; ask for fewer things")


def _apart(boxes: Boxes) -> bool:
    """No two boxes overlap."""
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return bool(((low < high).all(-1).sum()) == len(boxes))
