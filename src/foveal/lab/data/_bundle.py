"""What every data set looks like from outside."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..._ranges import SEED, Range, check_ranges
from ..._registry import Registry
from ._image import rgb

__all__ = ["DATA", "Data", "DataBundle", "SceneMasks", "Split", "register_data", "seed_of"]


class Split(Protocol):
    """Inputs with targets, ``self[i] -> (input, target)``.

    The input is mostly an image ``(C, H, W)`` of floats. What a target is the task says: a label, a mask, boxes, a disparity.
    """

    augments: bool
    """Whether an item is drawn anew each time, from torch's random numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


class SceneMasks(Protocol):
    """A split that also knows where things are."""

    def masks(self, index: int) -> dict[str, Tensor]:
        """``target`` and ``distractors``, each ``(H, W)`` bool."""
        ...


@dataclass(frozen=True)
class DataBundle:
    """The three splits of a set, and what a model and a task need to know of them. Sets whose tasks need more have a bundle of their own."""

    train: Split
    val: Split
    test: Split
    classes: list[str]
    """Names of classes, in the order of their numbers; empty where the task has none."""
    img_size: int
    """Side of the images in training. Where a task takes images of any size, evaluation may see others."""
    in_chans: int
    prepare: Callable[[Any], Tensor]
    """A PIL image of any size as the model takes it, ``(C, H, W)``."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the results must know, such as images left out."""
    probes: dict[str, Split] = field(default_factory=dict)
    """Further tests by name, such as parts of the test split; a run is judged on each when it ends, beside the test."""

    def described(self) -> "DataBundle":
        """The same without samples, to be sent to another process."""
        return replace(self, train=_NOTHING, val=_NOTHING, test=_NOTHING, prepare=_no_image, probes={})


_FEW = {f"{split}_{what}": count for split, count in (("train", 16), ("val", 20), ("test", 20)) for what in ("scenes", "clips", "clouds", "pairs")}
"""Samples of a stand-in, by the settings that say how many are made. Sixteen are two batches of eight: few enough to be learned by heart."""


class Data(ABC):
    """Settings of a data set, a frozen dataclass; what they load to is decided by them alone."""

    targets: ClassVar[str] = "labels"
    """What comes with each input. Data, model and task of a recipe must agree on it."""
    package: ClassVar[str] = ""
    """Name of the package in ``SOURCES`` that it is read from; empty where it is made, or your own files."""

    ranges: ClassVar[Mapping[str, Range]] = {"seed": SEED, **dict.fromkeys(("img_size", "side"), Range(at_least=1, at_most=2**16))}
    """What its numbers may be, by field; subclasses add theirs. All others must be finite."""

    def __post_init__(self) -> None:
        """Refuse settings that make no set."""
        check_ranges(self)

    @abstractmethod
    def load(self) -> DataBundle:
        """Read or make the set.

        Raises:
            ValueError: it is not there, or cannot be used.
        """

    def smoke_data(self) -> "Data":
        """A small set with the same targets out of a package, with which a training is tried out where this one is not at hand; itself if it is such a one.

        Of sets that are made, the same with few samples: so few that a network which learns shows it within some steps.
        """
        few = {item.name: min(getattr(self, item.name), _FEW[item.name]) for item in fields(self) if item.name in _FEW}  # type: ignore[arg-type]
        return self if all(getattr(self, name) == count for name, count in few.items()) else replace(self, **few)  # type: ignore[type-var]


DATA: Registry[type[Data]] = Registry("kind of data")
register_data = DATA.register
"""Decorates a :class:`Data` class, so that recipes with it go to JSON and back."""


class _Nothing:
    augments = False

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        raise IndexError(index)


_NOTHING = _Nothing()


def _no_image(image: Any) -> Tensor:
    raise AssertionError("a bundle that was only described prepares no images")


def seed_of(*parts: Any) -> int:
    """A 63-bit seed from anything that prints. Unlike ``hash`` it is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def gray_digit(side: int) -> Callable[[Any], Tensor]:
    """Prepares images for the sets of digits: gray, ``side × side``, standardized."""

    def prepare(image: Any) -> Tensor:
        small = rgb(image).convert("L").resize((side, side))
        return standardize(torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(1, side, side))

    return prepare


def standardize(image: Tensor) -> Tensor:
    """uint8 gray digits to floats of about zero mean and unit deviation; the two numbers are MNIST's, rounded."""
    return (image.to(torch.float32) / 255 - 0.13) / 0.25
