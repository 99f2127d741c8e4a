"""Every recipe runs from data to metrics in miniature, with its own optimizer, schedule, loss and augmentation."""

import json
import math
import pickle
from dataclasses import replace

import pytest
import torch

from foveal.recipes import get_recipe, list_recipes, smoke
from foveal.training import Recipe, fit, load_data, load_run, read_json


def stands_in(name: str) -> bool:
    """Whether its data, or what stands in for them, come without a folder of the user's."""
    data = get_recipe(name).data
    return not hasattr(data, "root") or data.stand_in() is not data


@pytest.mark.parametrize("name", [name for name in list_recipes() if stands_in(name)])
def test_every_recipe_runs(name, tmp_path) -> None:
    recipe = smoke(get_recipe(name), steps=4, batch_size=8)
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert math.isfinite(metrics[recipe.task.headline.name])
    assert metrics["step"] == 4
    history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(history) == 2
    # what was run can be taken up by its name alone
    assert Recipe.from_dict(read_json(tmp_path / "run" / "recipe.json")) == recipe
    assert load_run(tmp_path / "run")[0] == recipe
    # processes that read get their split by pickling, wherever they are not forked
    split = load_data(recipe.data).train
    assert len(pickle.loads(pickle.dumps(split))) == len(split)


@pytest.mark.parametrize("name", list_recipes())
def test_a_smoke_keeps_what_makes_the_training(name) -> None:
    recipe = get_recipe(name)
    tried = smoke(recipe)
    assert (tried.task, tried.precision, tried.repeats) == (recipe.task, recipe.precision, recipe.repeats)
    assert (tried.optim.optimizer, tried.optim.schedule, tried.optim.ema) == (recipe.optim.optimizer, recipe.optim.schedule, recipe.optim.ema)
    assert tried.optim.lr == recipe.optim.lr or (tried.optim.optimizer == "sgd" and tried.optim.lr == 0.01 < recipe.optim.lr)
    assert tried.optim.clip_grad is not None
    assert tried.data.stand_in() == tried.data, "a stand-in needs no other"
    assert (tried.workers, tried.trackers) == (0, ())


@pytest.mark.case("R16")
@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["coco-halo", "ade20k", "brain", "cityscapes"])
def test_a_smoke_learns(name, threads, tmp_path) -> None:
    """Mean loss of the last quarter of the steps against that of the first: a run that ends with a loss that grew proves nothing."""
    recipe, before = replace(smoke(get_recipe(name)), eval_every=5), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fit(recipe, tmp_path / "run", quiet=True)
    finally:
        torch.set_num_threads(before)
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
