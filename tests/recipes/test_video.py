"""Recipes on video: the published settings, the steps they make, and the networks they build."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from foveal.lab.recipes import dna_timesformer_ntu, get_recipe
from foveal.lab.training import Recipe
from foveal.lab.training.optimizing import make_optimizer, make_schedule

PUBLISHED = {
    "timesformer-k400": (240_000, 400, "fov_timesformer_base_patch16_224"),
    "dna-timesformer-k400": (240_000, 400, "fov_dna_timesformer_base_patch16_224"),
    "dna-timesformer-ntu": (40_320, 60, "fov_dna_timesformer_base_patch16_224"),
    "dna-timesformer-smarthome": (9_800, 31, "fov_dna_timesformer_base_patch16_224"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_training(name) -> None:
    videos, classes, registered = PUBLISHED[name]
    recipe = get_recipe(name)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.steps * recipe.batch_size == pytest.approx(15 * videos, rel=1e-4)
    assert (recipe.batch_size, recipe.optim.accumulate) == (64, 8)
    data = recipe.data
    assert (data.num_frames, data.stride, data.img_size, data.sides, data.hflip, data.test_crops) == (8, 32, 224, (256, 320), True, 3)
    with torch.device("meta"):
        model = recipe.model.build(img_size=224, in_chans=3, num_classes=classes, num_frames=data.num_frames)
    assert sum(value.numel() for value in model.parameters()) == sum(
        value.numel() for value in timm.create_model(registered, num_classes=classes, device="meta").parameters()
    )
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.1 * n / 11 for n in range(12)])


@pytest.mark.parametrize(("name", "headline"), [("k400", "accuracy"), ("ntu", "class_accuracy"), ("smarthome", "class_accuracy")])
def test_what_it_is_judged_by(name, headline) -> None:
    assert get_recipe(f"dna-timesformer-{name}").task.primary_metric.name == headline


def test_the_optimizer_looks_ahead_and_decays_everything() -> None:
    recipe = get_recipe("dna-timesformer-k400")
    model = recipe.model.smoke_model().build(img_size=32, in_chans=3, num_classes=8, num_frames=3)
    optimizer = make_optimizer(model, recipe)
    (group,) = (group for group in optimizer.param_groups if group["params"])
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.005, 0.9, True, 1e-4)
    assert len(group["params"]) == len(list(model.parameters()))


def test_the_learning_rate_falls_after_the_eleventh_and_the_fourteenth_epoch() -> None:
    recipe = replace(get_recipe("timesformer-k400"), steps=150)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.optim.lr)
    schedule = make_schedule(optimizer, recipe)
    rates = []
    for step in range(150):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    want = [0.005] * 110 + [0.0005] * 30 + [0.00005] * 10
    assert rates == pytest.approx(want)


def test_a_protocol_is_a_folder_of_lists() -> None:
    assert get_recipe("dna-timesformer-ntu").data.lists == Path("CS")
    assert dna_timesformer_ntu(lists=Path("CV")).data.lists == Path("CV")
