"""Points on the surfaces of simple solids, evenly by area, with the surface's normal at each.

All solids lie about the origin and are about as large as the unit ball. Where evenness has no closed form, points of the parameters are drawn by the size of
the surface that each stands for.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .augment import Turning

__all__ = ["ROUND", "SOLIDS", "random_rotation"]

Points = NDArray[np.float64]
Surface = tuple[Points, Points]
_CANDIDATES = 8
"""Drawn for each point that is kept by weight."""


def _sphere(rng: np.random.Generator, n: int) -> Surface:
    normals = _directions(rng, n)
    return normals, normals


def _ellipsoid(rng: np.random.Generator, n: int) -> Surface:
    axes = np.array([1.0, 0.7, 0.45])
    directions = _directions(rng, _CANDIDATES * n)
    # a patch of the unit sphere about u grows by |u / axes| times the product of the axes
    slopes = directions / axes
    chosen = _by_weight(rng, np.linalg.norm(slopes, axis=1), n)
    return directions[chosen] * axes, _unit(slopes[chosen])


def _cube(rng: np.random.Generator, n: int) -> Surface:
    side, axis, sign = 0.7, rng.integers(3, size=n), rng.choice([-1.0, 1.0], n)
    points, normals = rng.uniform(-side, side, (n, 3)), np.zeros((n, 3))
    points[np.arange(n), axis] = side * sign
    normals[np.arange(n), axis] = sign
    return points, normals


def _cylinder(rng: np.random.Generator, n: int) -> Surface:
    radius, half = 0.55, 0.8
    angle, cap = rng.uniform(0, 2 * np.pi, n), rng.random(n) < radius / (radius + 2 * half)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    along = np.where(cap, half * rng.choice([-1.0, 1.0], n), rng.uniform(-half, half, n))
    reach = np.where(cap, radius * np.sqrt(rng.random(n)), radius)
    points = np.column_stack([ring * reach[:, None], along])
    normals = np.column_stack([np.where(cap[:, None], 0.0, ring), np.where(cap, np.sign(along), 0.0)])
    return points, normals


def _cone(rng: np.random.Generator, n: int) -> Surface:
    radius, height = 0.8, 1.5
    slant = np.hypot(radius, height)
    angle, base = rng.uniform(0, 2 * np.pi, n), rng.random(n) < radius / (radius + slant)
    ring, reach = np.stack([np.cos(angle), np.sin(angle)], 1), radius * np.sqrt(rng.random(n))
    along = np.where(base, -height / 2, height / 2 - height * reach / radius)
    points = np.column_stack([ring * reach[:, None], along])
    side = np.column_stack([ring * height, np.full(n, radius)]) / slant
    return points, np.where(base[:, None], np.array([0.0, 0.0, -1.0]), side)


def _torus(rng: np.random.Generator, n: int) -> Surface:
    large, small = 0.7, 0.28
    around, across = rng.uniform(0, 2 * np.pi, (2, _CANDIDATES * n))
    chosen = _by_weight(rng, large + small * np.cos(across), n)
    around, across = around[chosen], across[chosen]
    normals = np.stack([np.cos(across) * np.cos(around), np.cos(across) * np.sin(around), np.sin(across)], 1)
    center = large * np.stack([np.cos(around), np.sin(around), np.zeros(n)], 1)
    return center + small * normals, normals


SOLIDS: dict[str, Callable[[np.random.Generator, int], Surface]] = {
    "sphere": _sphere,
    "ellipsoid": _ellipsoid,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
}
"""Each draws so many points and their normals, both ``(n, 3)``."""
ROUND = ("sphere", "cone")
"""Of the kinds that pairs are made of, see :class:`foveal.lab.data.SolidPairs`."""


def random_rotation(rng: np.random.Generator, kind: Turning = "so3") -> Points:
    """A rotation matrix, evenly among all, from a quaternion evenly on the sphere; or about z; or none. It draws as much whichever it is."""
    w, x, y, z = _directions(rng, 1, 4)[0]
    if kind == "none":
        return np.eye(3)
    if kind == "z":
        # the direction of two of four even on the sphere is even on the circle
        w, z = np.array([w, z]) / np.hypot(w, z)
        x = y = 0.0
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _directions(rng: np.random.Generator, n: int, dimensions: int = 3) -> Points:
    return _unit(rng.normal(size=(n, dimensions)))


def _unit(vectors: Points) -> Points:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _by_weight(rng: np.random.Generator, weights: Points, n: int) -> NDArray[np.int64]:
    return rng.choice(len(weights), n, replace=True, p=weights / weights.sum())
