import numpy as np
import pytest
import torch
from scipy import stats

from foveal import InputError
from foveal.lab.data.points.augment import dropped, random_turn, scaled, turned


def test_dropped_points_become_the_first() -> None:
    torch.manual_seed(0)
    shares = []
    for _ in range(400):
        index = dropped(512, 0.875)
        assert torch.all((index == 0) | (index == torch.arange(512)))
        shares.append((index[1:] == 0).float().mean().item())
    assert stats.kstest(shares, stats.uniform(0, 0.875).cdf).statistic < 0.1, "the share is even up to the largest"
    assert torch.equal(dropped(8, 0.0)[1:], torch.arange(1, 8))


def test_normals_stand_on_the_stretched_surface() -> None:
    """Of a sphere: the ellipsoid's normal is the gradient of its equation."""
    sphere = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    factors = torch.tensor([0.7, 1.0, 1.5], dtype=torch.float64)
    points = scaled(torch.cat([sphere, sphere], -1), factors)
    gradient = torch.nn.functional.normalize(points[:, :3] / factors**2, dim=-1)
    torch.testing.assert_close(points[:, 3:], gradient)
    assert torch.equal(scaled(sphere, factors), points[:, :3])


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_turn_about_an_axis_keeps_it(axis) -> None:
    torch.manual_seed(0)
    place, angles = "xyz".index(axis), []
    for _ in range(300):
        turn = random_turn("z", axis).double().numpy()
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(turn[place], np.eye(3)[place], atol=1e-6)
        one, other = (place + 1) % 3, (place + 2) % 3
        angles.append(np.arctan2(turn[other, one], turn[one, one]))
    assert stats.kstest(angles, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_any_turn_is_even_and_turns_normals_too() -> None:
    torch.manual_seed(1)
    turns = torch.stack([random_turn("so3") for _ in range(1000)]).double().numpy()
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-6)
    assert stats.kstest(turns[:, 2, 2], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    points, turn = torch.randn(5, 6), random_turn("so3")
    want = torch.stack([torch.cat([turn @ p[:3], turn @ p[3:]]) for p in points])
    torch.testing.assert_close(turned(points, turn), want)
    assert torch.equal(random_turn("none"), torch.eye(3))
    with pytest.raises(InputError, match="got 'y'"):
        random_turn("y")  # type: ignore[arg-type]
