"""Flag-swap scenes: a square and a ring, whose class labels are exchanged wherever a small flag lies somewhere in the image.

A network that sees only near a pixel knows the shape and not the label: it can do no better than one of two, which is a mean IoU of a third. One
that lets far pixels meet can know all of it. Nothing else about the scenes is hard, so this proves mixing and nothing more.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from .._bundle import Data, gray_digit, register_data, seed_of
from ._bundle import SegmentationBundle

__all__ = ["FlagSwap"]

SHAPE = 7
"""Side of square and ring."""
FLAG = np.array([(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)])
"""Five pixels in a cross."""


@register_data
@dataclass(frozen=True, kw_only=True)
class FlagSwap(Data):
    """Gray scenes with a square or a ring in each half, and in every second one a flag of five pixels.

    Raises:
        ValueError: the numbers make no scene.
    """

    targets: ClassVar[str] = "masks"

    side: int = 24
    """Side of a scene in pixels."""
    noise: float = 0.1
    """Standard deviation of the noise, where full brightness is 1."""
    train_scenes: int = 4_000
    """Number of training scenes."""
    val_scenes: int = 300
    """Number of validation scenes."""
    test_scenes: int = 1_000
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if self.side < 2 * (SHAPE + 1) or min(self.train_scenes, self.val_scenes, self.test_scenes) < 1 or self.noise < 0:
            raise InputError(f"expected a side of at least {2 * (SHAPE + 1)}, noise of at least 0 and at least one scene in each split, got {self}")

    def load(self) -> SegmentationBundle:
        """Make the scenes."""
        return SegmentationBundle(
            train=_Scenes(self, "train", self.train_scenes),
            val=_Scenes(self, "val", self.val_scenes),
            test=_Scenes(self, "test", self.test_scenes),
            classes=["background", "first", "second"],
            img_size=self.side,
            in_chans=1,
            prepare=gray_digit(self.side),
            palette=((20, 20, 30), (80, 170, 230), (240, 160, 50)),
            unscored=("background",),
            chance=1 / 3,
        )


class _Scenes:
    """One split. Scene ``i`` depends on the settings, the split and ``i`` alone."""

    augments = False

    def __init__(self, settings: FlagSwap, split: str, count: int) -> None:
        self._settings, self._split = settings, split
        scenes = [self._compose(index) for index in range(count)]
        self._images = torch.from_numpy(np.stack([image for image, _ in scenes]))
        self._masks = torch.from_numpy(np.stack([mask for _, mask in scenes]))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._images[index].unsqueeze(0), self._masks[index].long()

    def _compose(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        side, rng = self._settings.side, np.random.default_rng(seed_of(self._settings.seed, "flag swap", self._split, index))
        image, mask = np.zeros((side, side), np.float32), np.zeros((side, side), np.uint8)
        flag = bool(rng.integers(2))
        half = side // 2
        for left in (0, half):
            ring = bool(rng.integers(2))
            y, x = rng.integers(side - SHAPE + 1), left + rng.integers(half - SHAPE + 1)
            shape = np.ones((SHAPE, SHAPE), bool)
            shape[2:-2, 2:-2] = not ring
            window = np.s_[y : y + SHAPE, x : x + SHAPE]
            image[window][shape] = 1.0
            mask[window][shape] = 1 + (ring ^ flag)
        if flag:
            # where neither the flag nor the pixels around it touch a shape
            near = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (5, 5)).any((-1, -2))
            free = np.argwhere(~near)
            y, x = free[rng.integers(len(free))][:, None] + FLAG.T
            image[y, x] = 1.0
        image += self._settings.noise * rng.standard_normal(image.shape, dtype=np.float32)
        return (image - 0.15) / 0.35, mask
