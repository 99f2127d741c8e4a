"""What gives an image the numbers that measures compare, and how measures that bring a network of their own are given numbers instead."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from ...._errors import InputError
from ...._registry import Registry
from ...data import DataBundle

__all__ = ["FEATURES", "FeatureNetwork", "Features", "Given", "check_features", "describe", "register_features", "unnoticed"]

_AT_ONCE = 100


class Features(NamedTuple):
    """Of some images."""

    features: Tensor
    """``(n, d)`` float64, on the CPU."""
    logits: Tensor | None
    """``(n, K)`` float64, where the network is a classifier whose answers count."""


class FeatureNetwork(nn.Module, ABC):
    """A fixed network. Images are ``(n, C, H, W)`` from −1 to 1, C 1 or 3."""

    num_features: ClassVar[int]
    """d."""
    distance_name: ClassVar[str]
    """What a Fréchet distance in these features is called. FID is one in Inception's, and no other."""
    of_classes: ClassVar[bool] = False
    """Whether the logits are of the data's own classes."""

    @classmethod
    @abstractmethod
    def check(cls, bundle: DataBundle, weights: Path | None) -> None:
        """Refuse, before anything is trained, what :meth:`made_for` could not make.

        Raises:
            ValueError: a package or a file is missing, or the data have not what it needs.
        """

    @classmethod
    @abstractmethod
    def made_for(cls, bundle: DataBundle, folder: Path, weights: Path | None) -> Self:
        """The network.

        Args:
            bundle: the data, whose training images it may be trained on.
            folder: of the run, which keeps what was trained.
            weights: a file, for networks whose weights are brought.

        Raises:
            ValueError: as :meth:`check`; a file that holds something else.
        """

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features ``(n, d)`` and, of a classifier, logits."""


FEATURES: Registry[type[FeatureNetwork]] = Registry("network that gives features")
register_features = FEATURES.add
"""Enters a class under the word that settings use for it."""


@torch.no_grad()
def describe(network: FeatureNetwork, images: Tensor) -> Features:
    """Features of images, ``(n, C, H, W)`` from −1 to 1, on the device of the network.

    Raises:
        ValueError: features that are no numbers.
    """
    device = next((value.device for value in network.parameters()), torch.device("cpu"))
    network.eval()
    found = [network(some.to(device)) for some in images.split(_AT_ONCE)]
    features = torch.cat([some.double().cpu() for some, _ in found])
    logits = [some.double().cpu() for _, some in found if some is not None]
    if not features.isfinite().all():
        raise InputError("features of images are not finite; are the images, or the weights of the network that looks at them?")
    return Features(features, torch.cat(logits) if logits else None)


class Given(nn.Module):
    """In the place of torchmetrics' Inception: its input is the features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


@contextmanager
def unnoticed() -> Iterator[None]:
    """torchmetrics warns that it keeps all features, which is meant, and permutes them, which must neither move the random numbers of anybody else nor, by
    rounding, depend on them."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        warnings.filterwarnings("ignore", message=".*degrees of freedom")
        yield


def check_features(least: int, **sets: Tensor) -> None:
    """Refuse what is no two sets of features of equally many images.

    Raises:
        ValueError: not ``(n, d)``, other d, other n, fewer than ``least`` images, or values that are not finite.
    """
    shapes: dict[str, Any] = {name: tuple(value.shape) for name, value in sets.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[-1] for shape in shapes.values()}) != 1:
        raise InputError(f"expected features (n, d) of one width, got {shapes}")
    if len({shape[0] for shape in shapes.values()}) != 1:
        raise InputError(f"both sides need equally many images, since a distance of samples depends on their number; got {shapes}")
    count = next(iter(shapes.values()))[0]
    if count < least:
        raise InputError(f"at least {least} images are needed on each side, got {count}")
    if not all(value.isfinite().all() for value in sets.values()):
        raise InputError("features must be finite")
