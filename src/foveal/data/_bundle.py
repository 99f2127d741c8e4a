"""What every data set looks like from outside."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["DataBundle", "SceneMasks", "Split", "seed_of"]


class Split(Protocol):
    """Images with labels, ``self[i] -> ((C, H, W) float, int)``."""

    augments: bool
    """Whether an item is drawn anew each time, from torch's random numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


class SceneMasks(Protocol):
    """A split that also knows where things are."""

    def masks(self, index: int) -> dict[str, Tensor]:
        """``target`` and ``distractors``, each ``(H, W)`` bool."""
        ...


@dataclass(frozen=True)
class DataBundle:
    """The three splits of a classification set, and what a model needs to know of them."""

    train: Split
    val: Split
    test: Split
    classes: list[str]
    img_size: int
    in_chans: int
    prepare: Callable[[Any], Tensor]
    """A PIL image of any size as the model takes it, ``(C, H, W)``."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the results must know, such as images left out."""


def seed_of(*parts: Any) -> int:
    """A 63-bit seed from anything that prints. Unlike ``hash`` it is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def grey_digit(side: int) -> Callable[[Any], Tensor]:
    """Prepares images for the sets of digits: grey, ``side × side``, standardised."""

    def prepare(image: Any) -> Tensor:
        small = image.convert("L").resize((side, side))
        return standardise(torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(1, side, side))

    return prepare


def standardise(image: Tensor) -> Tensor:
    """uint8 grey digits to floats of about zero mean and unit deviation; the two numbers are MNIST's, rounded."""
    return (image.to(torch.float32) / 255 - 0.13) / 0.25
