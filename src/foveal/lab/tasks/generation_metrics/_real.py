"""Real images as measures take them: without what training draws anew each time, and of splits that lie in the order of their classes not the first."""

import torch
from torch import Tensor

from ...data import Split, seed_of

__all__ = ["SEARCHED", "plain", "real_images", "searched", "some_of"]

SEARCHED = 20_000
"""Training images that copies are sought among, at most."""


def plain(split: Split) -> Split:
    """The split as it is, where it can be had without what is drawn anew at every look."""
    as_it_is = getattr(split, "plain", None)
    return as_it_is() if split.augments and as_it_is is not None else split


def some_of(split: Split, count: int) -> tuple[Tensor, list[int]]:
    """So many images of a split and their classes, drawn by a fixed seed."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed_of("assessed", len(split))))
    return _taken(split, order[:count].tolist())


def real_images(split: Split, most: int) -> tuple[Tensor, list[int]]:
    """All of them in their order, or ``most`` of them as :func:`some_of`."""
    return _taken(split, list(range(len(split)))) if len(split) <= most else some_of(split, most)


def searched(split: Split) -> Tensor:
    """Training images that copies are sought among, and where training mirrors them their mirror images too."""
    images, _ = real_images(split, SEARCHED)
    return torch.cat([images, images.flip(-1)]) if split.augments else images


def _taken(split: Split, places: list[int]) -> tuple[Tensor, list[int]]:
    split = plain(split)
    samples = [split[place] for place in places]
    return torch.stack([image for image, _ in samples]), [int(label) for _, label in samples]
