"""Whether drawn images are copies: how far each is from the nearest training image, beside how far test images are, which nobody can have learned by heart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...._errors import InputError

__all__ = ["Memorization", "memorization", "nearest"]

_SHARE = 0.01
"""Of the test images, which lie nearer than the limit."""


@dataclass(frozen=True)
class Memorization:
    """Distances to the nearest training image."""

    drawn: Tensor
    """Of each drawn image."""
    places: Tensor
    """Which training image it is."""
    test: Tensor
    """Of each test image."""
    limit: float
    """Nearer than this lies one test image in a hundred."""

    @property
    def share(self) -> float:
        """Of the drawn images, how many lie as near as the limit or nearer: around 0.01 where nothing was copied, 1 where everything was.

        Where test images are training images too, the limit is 0.
        """
        return self.near.double().mean().item()

    @property
    def near(self) -> Tensor:
        """Which drawn images these are. Distances of equal images are 0 but for rounding."""
        return self.drawn <= self.limit + 1e-6


def nearest(images: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The least root-mean-square difference to one of ``among``, and which one that is, ``(n,)`` each. Of images, or of their features.

    Raises:
        ValueError: nothing to be near to, or images of another size.
    """
    if not len(among) or images.shape[1:] != among.shape[1:]:
        raise InputError(f"expected images of one size and at least one to be near to, got {tuple(images.shape)} and {tuple(among.shape)}")
    distances = torch.cdist(images.flatten(1).double(), among.flatten(1).double()) / images[0].numel() ** 0.5
    found = distances.min(1)
    return found.values, found.indices


def memorization(drawn: Tensor, train: Tensor, test: Tensor) -> Memorization:
    """Compare drawn and test images with the training images; all of them, or their features.

    Raises:
        ValueError: no image on a side, or images of another size.
    """
    if not len(drawn) or not len(test):
        raise InputError(f"copies are sought among drawn images by the measure of test images, got {len(drawn)} and {len(test)} of them")
    (own, places), (others, _) = nearest(drawn, train), nearest(test, train)
    return Memorization(own, places, others, torch.quantile(others, _SHARE).item())
