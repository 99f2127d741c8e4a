"""Rotation protocols against networks whose answers are known beforehand: z/z and z/SO3 of what reads the height, and of what no rotation changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from foveal.lab.data import ModelNet40Txt, PointBundle, Solids
from foveal.lab.data.points._clouds import Clouds, Stored
from foveal.lab.data.points.augment import Axis
from foveal.lab.recipes import get_recipe
from foveal.lab.training import Recipe, evaluate

COUNT, POINTS = 400, 24
RECIPE = get_recipe("solids")


def towers(up: int) -> Stored:
    """Boxes twice as high as wide (class 1), and half as high (0), by points on their corners and edges; round about the axis that points up, nearly."""
    rng = np.random.default_rng(0)
    clouds, labels = [], []
    for index in range(COUNT):
        angles, heights = rng.uniform(0, 2 * np.pi, POINTS), np.tile([-1.0, 1.0], POINTS // 2)
        label = index % 2
        reach, wide = (1.0, 0.5) if label else (0.5, 1.0)
        cloud = np.stack([wide * np.cos(angles), wide * np.sin(angles), reach * heights], 1)
        clouds.append(np.roll(cloud, up - 2, axis=1).astype(np.float32))
        labels.append(label)
    return Stored.of(clouds, labels)


def judged(model: torch.nn.Module, bundle: PointBundle, recipe: Recipe = RECIPE) -> dict:
    return evaluate(model.eval(), bundle.test, recipe, bundle)


def settings(turn: str, axis: Axis) -> ModelNet40Txt:
    return ModelNet40Txt(root=Path("nowhere"), num_points=POINTS, test_rotation=turn, up_axis=axis, seed=3)


def tower_bundle(turn: str, axis: Axis) -> PointBundle:
    test = Clouds(settings(turn, axis), towers("xyz".index(axis)), "test", augments=False)
    return PointBundle(test, test, test, ["flat", "tall"], 0, 3, lambda image: image, num_points=POINTS, up_axis=axis)


class Height(torch.nn.Module):
    """Answers "tall" where the cloud reaches farther along the axis than 0.75: right about every cloud that stands upright."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.weight = axis, torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reach = x[..., self.axis].abs().amax(1)
        return self.weight * torch.stack([torch.full_like(reach, 0.75), reach], -1)


class Radii(torch.nn.Module):
    """Answers by distances from the origin alone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(16, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        radii = x[..., :3].norm(dim=-1)
        shells = torch.linspace(0, 2, 16, device=x.device)
        return (-20 * (radii.unsqueeze(-1) - shells).square()).exp().mean(1) @ self.weight


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_who_reads_the_height_is_right_under_z_and_falls_under_so3_as_far_as_a_loop_over_rotations_says(axis) -> None:
    place = "xyz".index(axis)
    model = Height(place)
    found = {turn: judged(model, tower_bundle(turn, axis))["accuracy"] for turn in ("none", "z", "so3")}
    assert found["none"] == found["z"] == 1.0, "the axis that points up stays"
    right, stored = [], towers(place)
    for index, turn in enumerate(Rotation.random(4000, random_state=1).as_matrix()):
        number = index % COUNT
        cloud = stored.points[stored.span(number)] @ turn.T
        right.append((np.abs(cloud[:, place]).max() > 0.75) == stored.labels[number])
    want = np.mean(right)
    assert 0.2 < want < 0.6, "and a turned flat one reaches high"
    # three standard errors of both counts
    assert abs(found["so3"] - want) < 3 * np.sqrt(want * (1 - want) * (1 / COUNT + 1 / 4000))
    others = {"x": "y", "y": "z", "z": "x"}
    test = Clouds(settings("z", others[axis]), stored, "test", augments=False)
    fallen = judged(model, replace(tower_bundle("none", axis), test=test, val=test))["accuracy"]
    assert fallen < 0.95, "z is about the axis that is named and no other"


@pytest.mark.parametrize("axis", ["y", "z"])
def test_each_cloud_is_turned_by_a_rotation_of_its_own_out_of_the_protocol(axis) -> None:
    place, plain = "xyz".index(axis), tower_bundle("none", axis).test
    for turn in ("z", "so3"):
        turned, found = tower_bundle(turn, axis).test, []
        for index in range(60):
            rotation, left = Rotation.align_vectors(turned[index][0].double().numpy(), plain[index][0].double().numpy())
            assert left < 1e-5, "a rotation, and no reflection or stretch"
            found.append(rotation.as_matrix())
        tilt = np.array([matrix[place, place] for matrix in found])
        assert np.allclose(tilt, 1, atol=1e-6) == (turn == "z")
        assert np.std([matrix[(place + 1) % 3, (place + 1) % 3] for matrix in found]) > 0.4, "each by its own"


def test_what_no_rotation_changes_has_the_same_numbers_under_every_protocol() -> None:
    data = Solids(num_points=48, test_clouds=150, train_clouds=1, val_clouds=1, jitter=0.0)
    recipe, found = replace(RECIPE, data=data), {}
    for turn in ("none", "z", "so3"):
        bundle = replace(data, test_rotation=turn).load()
        found[turn] = judged(Radii(len(bundle.classes)), bundle, recipe)
    for turn in ("z", "so3"):
        assert found[turn]["loss"] == pytest.approx(found["none"]["loss"], rel=1e-5)
        assert found[turn]["confusion"] == found["none"]["confusion"]


def test_made_solids_stand_on_the_axis_that_their_set_says_is_up() -> None:
    """Heights are those of solids that were never turned, under z and not under SO3."""
    data = Solids(num_points=40, test_clouds=20, train_clouds=20, val_clouds=1, jitter=0.0)
    for split in ("train", "test"):
        upright, *others = (getattr(replace(data, train_rotation=turn, test_rotation=turn).load(), split) for turn in ("none", "z", "so3"))
        up = "xyz".index(data.load().up_axis)
        for index in range(20):
            heights, z, so3 = (one[index][0][:, up].numpy() for one in (upright, *others))
            np.testing.assert_allclose(z, heights, atol=1e-6)
            assert not np.allclose(so3, heights, atol=1e-2)
