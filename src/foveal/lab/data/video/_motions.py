"""Recorded motions in DeepMimic's format, and the pose between two frames of one.

A file is JSON, ``{"Loop": "wrap" or "none", "Frames": [[…], …]}``; a frame has 44 numbers: its duration in seconds, the place of the root (y is up), its
rotation, and the rotations of twelve joints, quaternions as w, x, y, z and single angles of knees and elbows.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError
from ...._files import parse_json

__all__ = ["JOINTS", "Motion", "Pose", "read_motion"]

JOINTS = (
    *(("chest", 4), ("neck", 4), ("right_hip", 4), ("right_knee", 1), ("right_ankle", 4), ("right_shoulder", 4), ("right_elbow", 1)),
    *(("left_hip", 4), ("left_knee", 1), ("left_ankle", 4), ("left_shoulder", 4), ("left_elbow", 1)),
)
"""Joints in the order of a frame, by their names in the humanoid's description, and how many numbers each has."""
_WIDTH = 8 + sum(width for _, width in JOINTS)


@dataclass(frozen=True)
class Pose:
    """Where the root is, how it is turned, and each joint: quaternions as x, y, z, w, as pybullet has them, or one angle."""

    place: NDArray[np.float64]
    turn: NDArray[np.float64]
    joints: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Motion:
    """One recording."""

    name: str
    frames: NDArray[np.float64]
    """``(frames, 44)``."""
    wraps: bool
    """It may go on from its end to its beginning, carried on by the way that it has made."""

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return float(self.frames[:-1, 0].sum())

    def pose(self, time: float) -> Pose:
        """The pose at a time in seconds; places and angles linear, rotations spherically interpolated."""
        laps = 0
        if self.wraps:
            laps, time = divmod(time, self.seconds)  # type: ignore[assignment]
        starts = np.concatenate([[0.0], self.frames[:-1, 0].cumsum()])
        left = int(np.clip(np.searchsorted(starts, time, side="right") - 1, 0, len(self.frames) - 2))
        share = min(max((time - starts[left]) / self.frames[left, 0], 0.0), 1.0)
        first, second = self.frames[left], self.frames[left + 1]
        place = first[1:4] + share * (second[1:4] - first[1:4]) + laps * (self.frames[-1, 1:4] - self.frames[0, 1:4]) * (1, 0, 1)
        joints, column = {}, 8
        for name, width in JOINTS:
            cut = slice(column, column + width)
            joints[name] = between(first[cut], second[cut], share) if width == 4 else first[cut] + share * (second[cut] - first[cut])
            column += width
        return Pose(place, between(first[4:8], second[4:8], share), joints)


def between(first: NDArray[np.float64], second: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Spherical interpolation of quaternions w, x, y, z on the shorter way; as x, y, z, w."""
    dot = float(first @ second)
    if dot < 0:
        second, dot = -second, -dot
    angle = math.acos(min(dot, 1.0))
    near = angle < 1e-6
    mixed = first + share * (second - first) if near else (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)
    return np.roll(mixed / np.linalg.norm(mixed), -1)


def read_motion(path: Path, name: str) -> Motion:
    """Read a recording.

    Raises:
        ValueError: it is not there or not in this format; the message names the file.
    """
    expected = f"a motion of frames of {_WIDTH} numbers"
    try:
        read = parse_json(path.read_text(encoding="utf8"), "its text")
        frames = np.array(read["Frames"], dtype=np.float64)
        loop = read["Loop"]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; get the package pybullet anew") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not {expected}: {type(error).__name__}: {error}") from error
    if frames.ndim != 2 or frames.shape[1] != _WIDTH or len(frames) < 2 or not np.isfinite(frames).all() or (frames[:-1, 0] <= 0).any():
        raise InputError(f"{path} is not {expected}, at least two of them, finite, each lasting some time; got {frames.shape}")
    return Motion(name, frames, loop == "wrap" and _closes(frames))


def _closes(frames: NDArray[np.float64]) -> bool:
    """Whether the last pose leads to the first as smoothly as poses inside lead to each other. Files call more motions cyclic than are."""
    steps = np.abs(np.diff(frames[:, 4:], axis=0)).max()
    return bool(np.abs(frames[-1, 4:] - frames[0, 4:]).max() <= steps)
