"""What a detection set looks like from outside, and how a picture of instance numbers becomes boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._bundle import DataBundle

__all__ = ["DetectionBundle", "Instances", "instances_of"]


@dataclass(frozen=True)
class DetectionBundle(DataBundle):
    """Splits of ``(image (C, H, W) float, target)``. A target is a dict of tensors, n objects:

    ``boxes`` ``(n, 4)`` float, left, top, right, bottom in pixels; ``labels`` ``(n,)`` int64, numbers of classes from 0; ``image_id`` ``()``; and, where the
    set has them, ``masks`` ``(n, H, W)`` bool, ``iscrowd`` ``(n,)`` (1: many objects in one box, neither learned nor counted as missed) and ``area`` ``(n,)``
    in pixels.
    """

    masks: bool = True
    """Whether the targets have masks."""
    category_ids: tuple[int, ...] = ()
    """Numbers that the set's own files give the classes, in the order of ``classes``; 1, 2, 3 … where there are no files."""


def instances_of(numbers: Tensor, labels: Sequence[int], image_id: int, *, smallest: int = 1) -> dict[str, Tensor]:
    """Boxes and masks of what is seen.

    Args:
        numbers: which instance each pixel belongs to, ``(H, W)``, 0 for none, others from 1.
        labels: class of instance ``k`` at place ``k − 1``.
        image_id: goes into the target.
        smallest: instances of fewer pixels are left out.
    """
    pixels = numbers.numpy()
    return _target(pixels, _look(pixels, labels, smallest), image_id)


class _Seen(NamedTuple):
    """What is there of a target but the masks, which are large and soon made."""

    numbers: NDArray[Any]
    """Of the instances, ``(n,)``, in the type of the picture."""
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def _look(pixels: NDArray[Any], labels: Sequence[int], smallest: int) -> _Seen:
    # NumPy, whose calls take half of the time of torch's where there is so little to do
    counts = np.bincount(pixels.ravel(), minlength=len(labels) + 1)
    seen = (counts[1 : len(labels) + 1] >= smallest).nonzero()[0] + 1
    numbers = seen.astype(pixels.dtype)
    return _Seen(numbers, boxes_of(_masks(pixels, numbers)), np.array([labels[number - 1] for number in seen.tolist()], np.int64))


def _masks(pixels: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.bool_]:
    return pixels == numbers[:, None, None]


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Smallest boxes around masks ``(n, H, W)``, none of them empty; right and bottom lie behind the last pixel."""
    boxes = np.zeros((len(masks), 4), np.float32)
    if len(masks):
        for axis in (0, 1):
            seen: NDArray[np.bool_] = np.logical_or.reduce(masks, axis + 1)
            boxes[:, axis], boxes[:, axis + 2] = seen.argmax(1), seen.shape[1] - seen[:, ::-1].argmax(1)
    return boxes


def _target(pixels: NDArray[Any], seen: _Seen, image_id: int) -> dict[str, Tensor]:
    """Of copies: whoever gets a target may write into it."""
    return {
        "boxes": torch.from_numpy(seen.boxes.copy()),
        "labels": torch.from_numpy(seen.labels.copy()),
        "masks": torch.from_numpy(_masks(pixels, seen.numbers)),
        "image_id": torch.tensor(image_id),
    }


class Instances:
    """A split of images and pictures of instance numbers, as one of boxes and masks.

    Where the split does not augment, boxes and labels of a sample are found once and kept: about a kilobyte a sample, in each process that reads it.

    Args:
        split: of ``(image, numbers)``.
        labels: class of every instance; by sample, or the same for all where one number means one instance in all of them.
        smallest: instances of fewer pixels are left out, such as what a border leaves of them.
    """

    def __init__(self, split: Any, labels: Sequence[Sequence[int]] | Sequence[int], *, smallest: int = 1) -> None:
        self.augments: bool = split.augments
        self._split, self._labels, self._smallest = split, labels, smallest
        self._kept: dict[int, _Seen] = {}

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, numbers = self._split[index]
        pixels = numbers.numpy()
        seen = self._kept.get(index)
        if seen is None:
            own = self._labels[index] if self._labels and not isinstance(self._labels[0], int) else self._labels
            seen = _look(pixels, own, self._smallest)  # type: ignore[arg-type]
        if not self.augments:
            self._kept[index] = seen
        return image, _target(pixels, seen, index)
