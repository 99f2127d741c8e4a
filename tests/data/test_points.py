"""Made clouds: evenness and normals against the surfaces' own equations; a cloud is decided by its number."""

import numpy as np
import pytest
import torch
from scipy import stats

from foveal import InputError
from foveal.lab.data import SolidPairs, Solids
from foveal.lab.data.points.shapes import ROUND, SOLIDS, random_rotation

# f(x) = 0 on the surface, and its gradient, which is the normal's direction
SURFACES = {
    "sphere": lambda p: (p @ p) - 1,
    "ellipsoid": lambda p: ((p / [1.0, 0.7, 0.45]) ** 2).sum() - 1,
    "torus": lambda p: (np.hypot(p[0], p[1]) - 0.7) ** 2 + p[2] ** 2 - 0.28**2,
}


@pytest.mark.parametrize("kind", SURFACES)
def test_points_lie_on_the_surface_and_normals_stand_on_it(kind) -> None:
    points, normals = SOLIDS[kind](np.random.default_rng(0), 50)
    for p, n in zip(points, normals, strict=True):
        assert SURFACES[kind](p) == pytest.approx(0, abs=1e-9)
        gradient = np.array([(SURFACES[kind](p + d) - SURFACES[kind](p - d)) / 2e-6 for d in 1e-6 * np.eye(3)])
        np.testing.assert_allclose(n, gradient / np.linalg.norm(gradient), atol=1e-5)


# shares of area, by hand
AREAS = {
    "cube": (lambda p: p[:, 2] > 0.6999, 1 / 6),
    "cylinder": (lambda p: np.abs(p[:, 2]) > 0.7999, 2 * 0.55**2 / (2 * 0.55**2 + 2 * 0.55 * 1.6)),
    "cone": (lambda p: p[:, 2] < -0.7499, 0.8 / (0.8 + np.hypot(0.8, 1.5))),
    "sphere": (lambda p: p[:, 2] > 0.5, 0.25),  # Archimedes: a cap's area goes with its height
    # outer half of a torus: 1/2 + r / (πR)
    "torus": (lambda p: np.hypot(p[:, 0], p[:, 1]) > 0.7, 0.5 + 0.28 / (np.pi * 0.7)),
}


@pytest.mark.parametrize("kind", AREAS)
def test_points_are_even_by_area(kind) -> None:
    inside, share = AREAS[kind]
    points, normals = SOLIDS[kind](np.random.default_rng(1), 20_000)
    assert stats.binomtest(int(inside(points).sum()), 20_000, share).pvalue > 1e-3
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_ellipsoids_are_even_by_area() -> None:
    """Against areas of a fine triangle mesh, on either side of a plane."""
    u, v = np.meshgrid(np.linspace(0, np.pi, 400), np.linspace(0, 2 * np.pi, 800), indexing="ij")
    grid = np.stack([np.sin(u) * np.cos(v), 0.7 * np.sin(u) * np.sin(v), 0.45 * np.cos(u)], -1)
    sides = grid[1:, :-1] - grid[:-1, :-1], grid[:-1, 1:] - grid[:-1, :-1]
    area = np.linalg.norm(np.cross(*sides), axis=-1)
    share = area[grid[:-1, :-1, 0] > 0.6].sum() / area.sum()
    points, _ = SOLIDS["ellipsoid"](np.random.default_rng(2), 20_000)
    assert abs((points[:, 0] > 0.6).mean() - share) < 0.015


def test_rotations_are_rotations_and_even() -> None:
    rng = np.random.default_rng(3)
    turns = np.stack([random_rotation(rng) for _ in range(2000)])
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    assert stats.kstest(turns[:, 2, 2], stats.uniform(-1, 2).cdf).pvalue > 1e-3, "an axis goes evenly over the sphere"


def test_a_cloud_is_decided_by_its_number() -> None:
    one, other = Solids(num_points=32).load(), Solids(num_points=32).load()
    points, label = one.train[5]
    assert torch.equal(points, other.train[5][0])
    assert label == other.train[5][1]
    assert not torch.equal(points, one.val[5][0])
    assert points.shape == (32, 6)
    assert Solids(num_points=32, normals=False).load().train[5][0].shape == (32, 3)
    assert len(one.classes) == 6
    with pytest.raises(IndexError):
        one.test[len(one.test)]


def test_labels_of_pairs_say_the_own_kind_and_the_other() -> None:
    bundle = SolidPairs(num_points=30).load()
    seen = set()
    for index in range(60):
        (points, _), labels = bundle.train[index]
        left, right = labels[:15].unique().tolist(), labels[15:].unique().tolist()
        assert len(left) == len(right) == 1
        kinds = [bundle.classes[one[0]].split(",")[0] for one in (left, right)]
        words = [bundle.classes[one[0]].split()[-1] for one in (left, right)]
        assert words == ["round" if kind in ROUND else "angular" for kind in kinds[::-1]]
        assert points[:15, 0].mean() < 0 < points[15:, 0].mean()
        seen |= {left[0], right[0]}
    assert seen == set(range(8))


@pytest.mark.parametrize("settings", [{"num_points": 1}, {"jitter": -0.1}, {"val_clouds": 0}, {"jitter": float("nan")}])
def test_numbers_that_make_no_cloud_are_refused(settings) -> None:
    with pytest.raises(InputError, match="must be"):
        Solids(**settings)
