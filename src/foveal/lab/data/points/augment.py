"""What training on clouds draws anew each time, from torch's random numbers. Coordinates come first in a point, a normal may follow.

Source     the settings of a public port of PCT (Strawberry-Eat-Mango/PCT_Pytorch) for ModelNet40: scale 2/3 to 3/2, shift 0.2, dropout 7/8.

Shapes     N points, C channels of 3 or 6
"""

import math
from typing import Literal

import torch
from torch import Tensor

from ...._errors import InputError

__all__ = ["Axis", "Turning", "dropped", "random_factors", "random_turn", "scaled", "shifted", "turned"]

Turning = Literal["none", "z", "so3"]
"""About the up axis, which the field calls z wherever it points, or by any rotation."""
Axis = Literal["x", "y", "z"]


def dropped(n: int, most: float) -> Tensor:
    """Which point stands at each place, ``(n,)``: a share of up to ``most`` of them, itself drawn, becomes the first point."""
    index = torch.arange(n)
    index[torch.rand(n) <= most * torch.rand(())] = 0
    return index


def scaled(points: Tensor, factors: Tensor) -> Tensor:
    """Coordinates times ``factors`` ``(3,)``, of one axis each, and normals as the stretched surface has them."""
    xyz, normals = points[..., :3] * factors, points[..., 3:]
    return xyz if not normals.shape[-1] else torch.cat([xyz, torch.nn.functional.normalize(normals / factors, dim=-1)], -1)


def random_factors(scale: tuple[float, float], *, generator: torch.Generator | None = None) -> Tensor:
    """Of each axis one, ``(3,)``, even between the two."""
    low, high = scale
    return low + (high - low) * torch.rand(3, generator=generator)


def shifted(points: Tensor, most: float) -> Tensor:
    """Coordinates moved by up to ``most`` along each axis; normals stay."""
    moved = points.clone()
    moved[..., :3] += most * (2 * torch.rand(3) - 1)
    return moved


def turned(points: Tensor, rotation: Tensor) -> Tensor:
    """Coordinates and normals under a rotation matrix ``(3, 3)``."""
    return (points.unflatten(-1, (-1, 3)) @ rotation.mT).flatten(-2)


def random_turn(kind: Turning, up_axis: Axis = "y", *, generator: torch.Generator | None = None) -> Tensor:
    """A rotation matrix: none, about the up axis by any angle, or evenly among all.

    Raises:
        ValueError: another kind or axis.
    """
    if kind not in ("none", "z", "so3") or up_axis not in ("x", "y", "z"):
        raise InputError(f"expected a rotation none, z or so3 and an up axis x, y or z, got {kind!r} and {up_axis!r}")
    if kind == "none":
        return torch.eye(3)
    if kind == "z":
        axis = "xyz".index(up_axis)
        quaternion = torch.zeros(4, dtype=torch.float64)
        half = math.pi * torch.rand((), generator=generator, dtype=torch.float64)
        quaternion[0], quaternion[1 + axis] = half.cos(), half.sin()
    else:
        quaternion = torch.nn.functional.normalize(torch.randn(4, generator=generator, dtype=torch.float64), dim=0)
    w, v = quaternion[0], quaternion[1:]
    zero = torch.zeros((), dtype=torch.float64)
    cross = torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).view(3, 3)
    return (torch.eye(3, dtype=torch.float64) + 2 * w * cross + 2 * cross @ cross).float()
