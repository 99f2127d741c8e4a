"""What a set of point clouds looks like from outside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...._errors import InputError
from .._bundle import DataBundle
from .augment import Axis

__all__ = ["PARTS", "SHAPES", "PointBundle", "no_picture"]

SHAPES = "shapes"
"""A label for a cloud."""
PARTS = "parts"
"""A label for each point, given the class of the cloud."""


@dataclass(frozen=True)
class PointBundle(DataBundle):
    """Splits of ``(points, label)``, or of ``((points, shape), labels)`` where each point has one.

    Points are ``(N, C)`` float32, coordinates first, labels int64. ``img_size`` is 0 and ``in_chans`` is C.
    """

    num_points: int = 0
    """N, of training."""
    num_shapes: int = 0
    """Classes of clouds, where points have labels."""
    shapes: Sequence[str] = field(default_factory=tuple)
    """Their names; empty where the one class has none."""
    parts_of_shape: Sequence[Sequence[int]] = field(default_factory=tuple)
    """For each class of clouds the labels that its points may have; empty where all may have all."""
    chance: float | None = None
    """The headline of guessing, where that is known."""
    up_axis: Axis = "z"
    """Which coordinate points up; for pictures, and for rotations about it."""


def no_picture(image: Any) -> Tensor:
    """In the place of ``prepare``, which is for images.

    Raises:
        ValueError: always.
    """
    raise InputError("a run on point clouds takes no image; foveal eval judges it on its clouds")
