"""Recorded human motions, drawn from any side, forward or backward: one must see the order of frames to tell which.

Fifteen motion-capture actions (DeepMimic's, in the package pybullet), each played forward or backward: thirty classes. Clips are drawn once, in about a
minute, and kept in the cache. Training, validation and test differ in the moments where clips begin and in the side they are seen from: each has a
wedge of viewpoints of its own, 240°, 60° and 60° wide. There is one recording of each action: what is tested is another view of a performance, not
another performer. The recordings state no license of their own: they are installed and drawn here, not passed on.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError, require
from .._bundle import Data, register_data, seed_of
from .._cache import cached
from .._fetch import packaged
from ._bundle import TARGETS, VideoBundle
from ._figure import View, renderer
from ._motions import Motion, read_motion
from ._single import whole_video, with_video

__all__ = ["ACTIONS", "MocapClips"]

ACTIONS = (
    *("backflip", "cartwheel", "crawl", "dance_a", "dance_b", "getup_facedown", "getup_faceup", "jump"),
    *("kick", "punch", "roll", "run", "spin", "spinkick", "walk"),
)
"""Names of the recordings, each played both ways."""
_WEDGES = {"train": (0.0, 240.0), "val": (240.0, 300.0), "test": (300.0, 360.0)}
"""Sides that clips are seen from, in degrees; those of a mirrored performer, where the picture is mirrored."""
_MIRRORED = 180.0
"""A mirrored picture from a side is the mirrored performer, who faces along x as all recordings begin, seen from this less that side."""
_DRAWING = 2
"""To be raised when clips of the same settings look otherwise."""
_BINS = 20
_MOMENTS = {"train": (0, 1, 2), "val": (3,), "test": (4,)}
"""Where clips begin: a twentieth of the recording whose number, by five, leaves one of these. So every split sees every phase of an action."""


@register_data
@dataclass(frozen=True, kw_only=True)
class MocapClips(Data):
    """Clips of motion-capture actions, decided by these numbers alone; the class is the action and whether it runs backward.

    Drawing needs the extra ``mocap`` (pybullet, 101 MB); what is in the cache does not.

    Raises:
        ValueError: the numbers make no clip; a recording is not there or cannot be read.
        MissingExtra: pybullet is not installed, and the clips are not in the cache.
    """

    targets: ClassVar[str] = TARGETS
    num_frames: int = 8
    """Frames of a clip."""
    side: int = 48
    """Of a frame, in pixels."""
    seconds: float = 1.0
    """Time from the first frame of a clip to the last, at ordinary speed; shorter where the recording is."""
    speed: tuple[float, float] = (0.5, 2.0)
    """A clip runs as fast as a factor between these, drawn on a logarithmic scale."""
    train_clips: int = 3_000
    """Number of training clips."""
    val_clips: int = 300
    """Number of validation clips."""
    test_clips: int = 900
    """Number of test clips."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        slow, fast = self.speed
        if not 0 < slow <= fast or self.seconds <= 0 or self.num_frames < 2 or self.side < 16:
            raise InputError(f"expected 0 < slowest ≤ fastest speed, some seconds, at least 2 frames and 16 pixels, got {self}")
        if min(self.train_clips, self.val_clips, self.test_clips) < 1:
            raise InputError(f"expected at least one clip in each split, got {self}")

    def load(self) -> VideoBundle:
        """Read the clips, or draw them where they are not in the cache."""
        counts = {"train": self.train_clips, "val": self.val_clips, "test": self.test_clips}
        splits: dict[str, Any] = {split: _Clips(*self._drawn(split, count)) for split, count in counts.items()}
        return VideoBundle(
            **splits,
            classes=[f"{action} {way}" for action in ACTIONS for way in ("forward", "backward")],
            img_size=self.side,
            in_chans=3,
            prepare=with_video(self._ready),
            notes=["one recording of each action: the test has other views and moments, not other persons"],
            num_frames=self.num_frames,
            probes={"frames_shuffled": _Clips(splits["test"].frames, splits["test"].labels, shuffled=True)},
            aspects={"action": [label // 2 for label in range(2 * len(ACTIONS))], "direction": [label % 2 for label in range(2 * len(ACTIONS))]},
        )

    def _drawn(self, split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        def make() -> dict[str, NDArray[Any]]:
            require("drawing MocapClips", ("pybullet",))
            folder = packaged("pybullet_data", what="drawing MocapClips", extra="mocap")
            motions = [read_motion(folder / "data" / "motions" / f"humanoid3d_{name}.txt", name) for name in ACTIONS]
            frames = np.empty((count, self.num_frames, self.side, self.side, 3), np.uint8)
            labels = np.empty(count, np.int64)
            with renderer(folder) as figure:
                for index in range(count):
                    plan = self._plan(split, index, motions)
                    frames[index] = figure.draw([plan.motion.pose(time) for time in plan.times], plan.view, self.side)
                    labels[index] = plan.label
                    if plan.mirrored:
                        frames[index] = frames[index, :, :, ::-1]
            return {"frames": frames, "labels": labels}

        settings = (_DRAWING, self.num_frames, self.side, self.seconds, self.speed, count, self.seed, split)
        arrays = cached(f"{type(self).__name__}-{split}", (), settings, make, folder="mocap")
        return arrays["frames"], arrays["labels"]

    def _plan(self, split: str, index: int, motions: "list[Motion]") -> "_Plan":
        rng = np.random.default_rng(seed_of("mocap", self.seed, split, index))
        label = int(rng.integers(2 * len(motions)))
        motion, backward = motions[label // 2], bool(label % 2)
        span = self.seconds * float(np.exp(rng.uniform(*np.log(self.speed))))
        room = motion.seconds
        if not motion.wraps:
            span = min(span, room)
            room -= span
        fifth = int(rng.choice(_MOMENTS[split])) + 5 * int(rng.integers(_BINS // 5))
        start = room * (fifth + float(rng.uniform())) / _BINS
        times = start + span * np.linspace(0, 1, self.num_frames)
        height = float(rng.uniform(0.4, 1.0))
        side = float(rng.uniform(*_WEDGES[split]))
        view = View(
            yaw=side,
            pitch=float(rng.uniform(-30, 5)),
            distance=float(rng.uniform(1.8, 2.6)),
            light=(float(rng.uniform(-1, 1)), height, float(rng.uniform(-1, 1))),
            color=tuple(rng.uniform(0.25, 1.0, 3).tolist()),
        )
        mirrored = bool(rng.integers(2))
        if mirrored:
            view = replace(view, yaw=_MIRRORED - side)
        return _Plan(motion, tuple((times[::-1] if backward else times).tolist()), view, label, mirrored)

    def _ready(self, path: Path) -> Tensor:
        return _standardized(whole_video(path, self.num_frames, self.side).transpose(0, 1))

    def smoke_data(self) -> Data:
        """Few clips of moving digits: motions are fetched and drawn."""
        from .moving_digits import MovingDigits

        return replace(MovingDigits(source="digits").smoke_data(), num_frames=self.num_frames)  # type: ignore[type-var]


@dataclass(frozen=True)
class _Plan:
    motion: Motion
    times: tuple[float, ...]
    view: View
    label: int
    mirrored: bool


class _Clips:
    """One split, in memory as it lies in the cache; ``shuffled``: frames in an order drawn for each clip, the same at every look."""

    augments = False

    def __init__(self, frames: NDArray[np.uint8], labels: NDArray[np.int64], *, shuffled: bool = False) -> None:
        self.frames, self.labels, self._shuffled = frames, labels, shuffled

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        frames = self.frames[index]
        if self._shuffled:
            frames = frames[np.random.default_rng(seed_of("shuffled", index)).permutation(len(frames))]
        return _standardized(torch.from_numpy(frames).permute(3, 0, 1, 2).to(torch.float32)), int(self.labels[index])


def _standardized(clip: Tensor) -> Tensor:
    # backgrounds are white, and figures small
    return (clip / 255 - 0.95) / 0.2
