"""Clouds that were read from files: kept one behind the other, drawn anew in training, the same each time in evaluation.

Shapes     n clouds, N points of one, C channels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import Data, seed_of
from .augment import Axis, Turning, dropped, random_factors, random_turn, scaled, shifted, turned

__all__ = ["CloudFiles", "Clouds", "DrawnClouds", "Stored", "in_unit_ball", "rotation_notes"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """Clouds of any sizes."""

    points: Floats
    """Of all clouds, ``(total, C)``."""
    ends: NDArray[np.int64]
    """Where each cloud ends, ``(n,)``."""
    labels: NDArray[np.int64]
    """The class of each, ``(n,)``."""
    parts: NDArray[np.int64] | None = None
    """Of each point, ``(total,)``."""

    def __len__(self) -> int:
        return len(self.labels)

    def span(self, index: int) -> slice:
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    @classmethod
    def of(cls, clouds: Sequence[Floats], labels: Sequence[int], parts: Sequence[NDArray[np.int64]] | None = None) -> "Stored":
        return cls(
            np.concatenate(clouds),
            np.cumsum([len(cloud) for cloud in clouds], dtype=np.int64),
            np.asarray(labels, np.int64),
            None if parts is None else np.concatenate(parts),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {"points": self.points, "ends": self.ends, "labels": self.labels}
        return found if self.parts is None else {**found, "parts": self.parts}


@dataclass(frozen=True, kw_only=True)
class DrawnClouds(Data):
    """How a cloud is drawn in training, and turned in evaluation."""

    all_points: ClassVar[bool] = False
    """Whether a training cloud is drawn out of all points of its file; else its first ones are taken, as the published trainings do."""

    ranges: ClassVar[Mapping[str, Range]] = {
        "num_points": Range(at_least=2),
        "scale": Range(above=0),
        "shift": Range(at_least=0),
        "point_dropout": Range(at_least=0, below=1),
    }

    num_points: int = 1024
    """Of a cloud, in training and evaluation."""
    normals: bool = False
    """Beside the coordinates the surface's normal: six channels instead of three."""
    scale: tuple[float, float] = (2 / 3, 3 / 2)
    """Training clouds are stretched along each axis by a factor between these."""
    shift: float = 0.2
    """Training clouds are moved along each axis by up to this; shapes have a radius of 1."""
    point_dropout: float = 0.0
    """Of a training cloud up to this share of points, itself drawn, become copies of its first point."""
    train_rotation: Turning = "none"
    """Turn training clouds: none, z about the up axis, so3 by any rotation, each time anew."""
    test_rotation: Turning = "none"
    """Turn clouds of validation and test, each by a rotation of its own that the seed decides."""
    up_axis: Axis = "y"
    """Which coordinate points up, about which z turns."""
    seed: int = 0
    """Decides what is drawn of a file once, and rotations of evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise InputError(f"scale is the least and the largest factor, got {self.scale}")

    @property
    def channels(self) -> int:
        return 6 if self.normals else 3

    def notes(self) -> list[str]:
        return rotation_notes(self.train_rotation, self.test_rotation)


@dataclass(frozen=True, kw_only=True)
class CloudFiles(DrawnClouds):
    """What sets of clouds in a folder of the user's share.

    Raises:
        ValueError: folders or files are missing, damaged or do not belong together; a cloud has too few points; the message names the file.
    """

    root: Path
    """Folder of the set."""


def rotation_notes(train: Turning, test: Turning) -> list[str]:
    """The protocol in the field's words, such as z/SO3; nothing where nothing is turned."""
    word = {"none": "none", "z": "z", "so3": "SO3"}
    return [f"rotations in training/test: {word[train]}/{word[test]}"] if {train, test} != {"none"} else []


class Clouds:
    """A split: ``(points, label)``, or ``((points, shape), parts)`` where points have labels. Points are ``(num_points, C)`` float32."""

    def __init__(self, settings: DrawnClouds, stored: Stored, split: str, *, augments: bool) -> None:
        self.augments = augments
        self._settings, self._split = settings, split
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < len(self.stored):
            raise IndexError(index)
        span, label = self.stored.span(index), int(self.stored.labels[index])
        chosen = self._chosen(index, span.stop - span.start)
        points = torch.from_numpy(self.stored.points[span][chosen.numpy()])
        points = self._vary(points) if self.augments else self._turn(points, index)
        if self.stored.parts is None:
            return points, label
        return (points, label), torch.from_numpy(self.stored.parts[span][chosen.numpy()])

    def _chosen(self, index: int, count: int) -> Tensor:
        """Which points of a file, ``(num_points,)``: shuffled in training; some twice where there are too few."""
        settings = self._settings
        wanted = settings.num_points
        if not settings.all_points:
            chosen = torch.arange(wanted)
        else:
            generator = None if self.augments else torch.Generator().manual_seed(seed_of("points of", settings.seed, self._split, index))
            rounds = -(-wanted // count)
            chosen = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:wanted]
        if self.augments:
            if settings.point_dropout:
                chosen = chosen[dropped(wanted, settings.point_dropout)]
            chosen = chosen[torch.randperm(wanted)]
        return chosen

    def _vary(self, points: Tensor) -> Tensor:
        settings = self._settings
        if settings.train_rotation != "none":
            points = turned(points, random_turn(settings.train_rotation, settings.up_axis))
        return shifted(scaled(points, random_factors(settings.scale)), settings.shift)

    def _turn(self, points: Tensor, index: int) -> Tensor:
        settings = self._settings
        if settings.test_rotation == "none":
            return points
        generator = torch.Generator().manual_seed(seed_of("turn of", settings.seed, self._split, index))
        return turned(points, random_turn(settings.test_rotation, settings.up_axis, generator=generator))


def in_unit_ball(cloud: NDArray[Any], path: Path) -> Floats:
    """Coordinates with their mean at the origin and the farthest point at 1; normals as they are.

    Raises:
        ValueError: all points are one; ``path`` is named.
    """
    moved = cloud[:, :3].astype(np.float64)
    moved -= moved.mean(0)
    reach = np.linalg.norm(moved, axis=1).max()
    if not reach > 0:
        raise InputError(f"{path} has all its points in one place; leave the file out")
    return np.concatenate([moved / reach, cloud[:, 3:]], 1).astype(np.float32)
