"""Images to be drawn by a network: pixels from −1 to 1, with a class each where there are classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..._errors import InputError
from ..._ranges import Range
from ._bundle import Data, DataBundle, register_data, seed_of
from ._image import rgb
from .digits import FEW, Digits, Images, Labels

__all__ = ["PALETTE", "ColorMatch", "DigitImages", "ImageBundle"]


@dataclass(frozen=True)
class ImageBundle(DataBundle):
    """Images of one size, which need not be square."""

    size: tuple[int, int] = (0, 0)
    """Height and width."""


@register_data
@dataclass(frozen=True, kw_only=True)
class DigitImages(Digits):
    """Single digits to be drawn: the same digits in the same splits as those that are classified, pixels from −1 to 1.

    Raises:
        ValueError: half of digits that are 8×8 already.
    """

    targets: ClassVar[str] = "images"

    half: bool = False
    """Digits of half the side, 2×2 pixels averaged: of mnist 14×14, padded to 16×16. A quarter of the pixels costs a quarter of the time or less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.half and self.source != "mnist":
            raise InputError(f"half is for mnist, whose digits are of 28×28; got it with the source {self.source!r}; leave it out")

    def drawn(self) -> tuple[Images, Labels, tuple[Labels, ...]]:
        images, labels, parts = super().drawn()
        if self.half:
            count, side = len(images), images.shape[-1] // 2
            images = images.reshape(count, side, 2, side, 2).mean((2, 4)).round().astype(np.uint8)
        return images, labels, parts

    def smoke_data(self) -> "DigitImages":
        """Few of the small ones: whoever draws pays for every pixel."""
        few = replace(self, source="digits", train_digits=FEW, half=False)
        return self if self == few else few

    def load(self) -> DataBundle:
        images, labels, parts = self.drawn()
        side = images.shape[-1]
        train, val, test = (PixelSplit(images[part][:, None], labels[part]) for part in parts)
        prepare = _prepare((side, side), "L")
        return ImageBundle(train, val, test, [str(n) for n in range(10)], img_size=side, in_chans=1, prepare=prepare, size=(side, side))


class PixelSplit:
    """Bytes ``(n, C, H, W)`` and their classes as a split of images from −1 to 1."""

    augments = False

    def __init__(self, images: Images, labels: Labels) -> None:
        self._images, self._labels = torch.from_numpy(images), labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return _signed(self._images[index]), int(self._labels[index])


def _signed(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) / 127.5 - 1


def _prepare(size: tuple[int, int], mode: str) -> Callable[[Any], Tensor]:
    """Prepares images: height and width, and PIL's mode, ``L`` or ``RGB``; from −1 to 1."""

    def prepare(image: Any) -> Tensor:
        small = np.array(rgb(image).convert(mode).resize(size[::-1]))
        return _signed(torch.from_numpy(small).view(*size, -1).permute(2, 0, 1))

    return prepare


PALETTE = torch.tensor([[0.8, -0.8, -0.8], [-0.8, 0.8, -0.8], [-0.8, -0.8, 0.8], [0.8, 0.8, -0.8], [0.8, -0.8, 0.8], [-0.8, 0.8, 0.8]])
"""Red, green, blue, yellow, magenta, cyan; dark is −0.8 in all three."""
_DARK = -0.8


@register_data
@dataclass(frozen=True, kw_only=True)
class ColorMatch(Data):
    """Two squares of one color, one near each end of a dark strip, in any rows. There are no classes: what tells the color of one square is the other.

    Raises:
        ValueError: squares that do not fit, or more colors than there are.
    """

    targets: ClassVar[str] = "images"
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("train_scenes", "val_scenes", "test_scenes", "square"), Range(at_least=1)),
        "colors": Range(at_least=2, at_most=len(PALETTE)),
        "noise": Range(at_least=0),
    }

    height: int = 8
    """Of the strip, in pixels."""
    width: int = 12
    """Of the strip, in pixels; even."""
    square: int = 2
    """Side of a square. It begins in the first or second column from its end."""
    colors: int = 4
    """How many there are."""
    noise: float = 0.05
    """Standard deviation of the noise on every pixel."""
    train_scenes: int = 4000
    """Number of training images."""
    val_scenes: int = 400
    """Number of validation images."""
    test_scenes: int = 1000
    """Number of test images."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2 or self.height < self.square or self.width < 2 * (self.square + 1) + 2:
            raise InputError(f"expected an even width with two squares of {self.square} at its ends and room between them, got {self.height}×{self.width}")

    def load(self) -> DataBundle:
        counts = {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}
        train, val, test = (_Kept(torch.from_numpy(self._compose(name, count))) for name, count in counts.items())
        size = (self.height, self.width)
        return ImageBundle(train, val, test, [], img_size=max(size), in_chans=3, prepare=_prepare(size, "RGB"), size=size)

    def _compose(self, split: str, count: int) -> Any:
        rng = np.random.default_rng(seed_of(self.seed, split))
        images = np.full((count, 3, self.height, self.width), _DARK, np.float32)
        palette, last = PALETTE.numpy(), self.width - self.square
        for image in images:
            color = palette[rng.integers(self.colors)][:, None, None]
            for left in (rng.integers(2), last - rng.integers(2)):
                top = rng.integers(self.height - self.square + 1)
                image[:, top : top + self.square, left : left + self.square] = color
        images += self.noise * rng.standard_normal(images.shape, dtype=np.float32)
        return images.clip(-1, 1)

    def colors_of(self, images: Tensor) -> Tensor:
        """Which color the left and the right half of images show most, ``(n, 3, H, W) -> (n, 2)``: of what is brighter than the dark, the nearest direction."""
        light = (images.float() - _DARK).clamp_min(0)
        halves = torch.stack([half.flatten(2).sum(-1) for half in light.chunk(2, dim=-1)], 1)
        palette = torch.nn.functional.normalize(PALETTE[: self.colors].to(images.device) - _DARK, dim=-1)
        return (halves @ palette.T).argmax(-1)


class _Kept:
    augments = False

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._images[index], 0
