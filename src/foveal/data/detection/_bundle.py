"""What a detection set looks like from outside, and how a picture of instance numbers becomes boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
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
    counts = torch.bincount(numbers.flatten(), minlength=len(labels) + 1)
    seen = (counts[1 : len(labels) + 1] >= smallest).nonzero().flatten() + 1
    masks = numbers == seen.to(numbers.dtype).view(-1, 1, 1)
    return {
        "boxes": boxes_of(masks),
        "labels": torch.tensor([labels[number - 1] for number in seen.tolist()], dtype=torch.int64),
        "masks": masks,
        "image_id": torch.tensor(image_id),
    }


def boxes_of(masks: Tensor) -> Tensor:
    """Smallest boxes around masks ``(n, H, W)``, none of them empty; right and bottom lie behind the last pixel."""
    if not len(masks):
        return torch.zeros(0, 4)
    edges = []
    for seen in (masks.any(-2), masks.any(-1)):
        length = seen.shape[-1]
        edges.append((seen.int().argmax(-1), length - seen.flip(-1).int().argmax(-1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], -1).float()


class Instances:
    """A split of images and pictures of instance numbers, as one of boxes and masks.

    Args:
        split: of ``(image, numbers)``.
        labels: class of every instance; by sample, or the same for all where one number means one instance in all of them.
        smallest: instances of fewer pixels are left out, such as what a border leaves of them.
    """

    def __init__(self, split: Any, labels: Sequence[Sequence[int]] | Sequence[int], *, smallest: int = 1) -> None:
        self.augments: bool = split.augments
        self._split, self._labels, self._smallest = split, labels, smallest

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, numbers = self._split[index]
        own = self._labels[index] if self._labels and not isinstance(self._labels[0], int) else self._labels
        return image, instances_of(numbers, own, index, smallest=self._smallest)  # type: ignore[arg-type]
