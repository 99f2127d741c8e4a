"""Recipes to JSON and back; what no recipe can be is refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from foveal import InputError
from foveal.lab.data import Digits, ImageFolder
from foveal.lab.recipes import get_recipe, list_recipes
from foveal.lab.tasks import Classification
from foveal.lab.training import Optim, Recipe, read_json, write_json
from foveal.lab.training.checkpoint import fingerprint
from foveal.models import PSMNet, ViT
from tests.training.helpers import everything, tiny

RECIPES = {
    **{name: get_recipe(name) for name in list_recipes()},
    "tiny": tiny(),
    "everything": everything(),
    "folder": Recipe(data=ImageFolder(root=Path("some/dir"), randaugment=True), precision="bf16", trackers=("tensorboard", "wandb")),
    "options": Recipe(
        data=Digits(source="digits"),
        model=ViT(attention="external", options={"slots": 7, "tie": "hard"}, size="small", num_heads=None, patch_size=2),
        optim=Optim(betas=(0.8, 0.95), clip_grad=None, ema=0.99),
        task=Classification(cutmix=1.0),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_round_trip_through_a_file(recipe, tmp_path) -> None:
    write_json(tmp_path / "recipe.json", recipe.to_dict())
    back = Recipe.from_dict(read_json(tmp_path / "recipe.json"))
    assert back == recipe
    assert type(back.data) is type(recipe.data)
    assert back.to_dict() == recipe.to_dict()


def test_names_are_alike_with_underscores() -> None:
    assert get_recipe("cluttered_digits") == get_recipe("cluttered-digits")
    with pytest.raises(InputError, match="did you mean cluttered-digits"):
        get_recipe("clutered-digits")
    assert all(about for about in list_recipes().values())


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("stepps", 3, "field of Recipe 'stepps'; did you mean steps"),
        ("data.nois", 3, "field of ClutteredDigits 'nois'; did you mean noise"),
        ("data.kind", "Imagenet", "kind of data 'Imagenet'"),
        ("data", None, "kind of data"),
        ("data", 5, "data"),
        ("model.atention", "softmax", "field of ViT 'atention'; did you mean attention"),
        ("model", None, "model"),
        ("model", [1], "model"),
        ("optim", "fast", "optim"),
        ("optim.nestorov", True, "field of Optim 'nestorov'; did you mean nesterov"),
        ("optim.nesterov", True, "nesterov is of sgd alone"),
        ("optim.cooldown", 0.95, "cooldown"),
        ("repeats", 0, "at least 1"),
        ("task", {"bce": True, "label_smoothing": 0.1}, "label_smoothing is of cross-entropy"),
        ("optim.lr", "fast", "lr"),
        ("optim.lr", 0, "lr of Optim must be above 0"),
        ("optim.betas", [0.9], "betas"),
        ("optim.betas", 0.9, "betas"),
        ("task.mixup", -1, "mixup"),
        ("task.label_smoothing", 1.0, "label_smoothing"),
        ("steps", "many", "steps"),
        ("steps", 2.5, "steps"),
        ("steps", True, "steps"),
        ("steps", None, "steps"),
        ("steps", 0, "at least 1"),
        ("batch_size", -4, "at least 1"),
        ("eval_every", 0, "at least 1"),
        ("checkpoint_every", 0, "at least 1"),
        ("optim.accumulate", 0, "at least 1"),
        ("optim.accumulate", 5, "must divide batch_size"),
        ("optim.warmup", 1.0, "warmup"),
        ("precision", "fp8", "precision"),
        ("trackers", "tensorboard", "trackers"),
        ("share_initial_weights", "no", "share_initial_weights"),
    ],
)
def test_what_no_recipe_can_be_is_refused(place, value, says) -> None:
    values = tiny().to_dict()
    inner = values
    *path, last = place.split(".")
    for key in path:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(InputError, match=says):
        Recipe.from_dict(values)


@pytest.mark.parametrize("values", [[1], "recipe", 3, None])
def test_json_that_is_no_object_is_refused(values) -> None:
    with pytest.raises(InputError, match="recipe"):
        Recipe.from_dict(values)


def test_whole_numbers_are_good_floats() -> None:
    values = tiny().to_dict()
    values["optim"]["clip_grad"] = 1
    values["data"]["noise"] = 0
    assert Recipe.from_dict(values).optim.clip_grad == 1


@pytest.mark.parametrize("content", [None, b"", b'{"steps": 3', b"\xff\xfe"])
def test_files_that_are_no_json_are_named(content, tmp_path) -> None:
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"recipe\.json"):
        read_json(path)


def test_json_is_written_for_readers(tmp_path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2]})
    text = (tmp_path / "x.json").read_text()
    assert text == json.dumps({"a": [1, 2]}, indent=2) + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


OLD = (
    '{"data": {"kind": "ClutteredDigits", "source": "digits", "cells": 2, "digit": 8, "distractors": 2, "distractor_level": 0.5, "noise": 0.1, '
    '"train_scenes": 70, "val_scenes": 20, "test_scenes": 30, "seed": 0}, "model": {"attention": "denoising", "options": null, "size": "tiny", '
    '"num_heads": null, "patch_size": null, "drop_path": 0.1}, "task": {"label_smoothing": 0.1, "mixup": 0.3, "cutmix": 0.5, "overlap_weight": 0.1}, '
    '"optim": {"lr": 0.002, "min_lr": 1e-05, "weight_decay": 0.05, "betas": [0.9, 0.999], "warmup": 0.1, "clip_grad": 1.0, "accumulate": 2, "ema": 0.9}, '
    '"steps": 8, "batch_size": 12, "eval_every": 3, "checkpoint_every": 4, "seed": 0, "share_initial_weights": false, "precision": "no", "workers": 0, '
    '"trackers": []}'
)
"""As it was written when there was classification alone."""


def test_recipes_of_before_there_were_other_tasks_are_read_and_their_runs_go_on() -> None:
    assert Recipe.from_dict(json.loads(OLD)) == everything()
    assert fingerprint(everything().to_dict()) == fingerprint(json.loads(OLD)) == "a4f6df2e7a31166c"
    other = tiny(optim=Optim(lr=2e-3, ema=0.9, accumulate=2, schedule="poly"))
    assert fingerprint(other.to_dict()) != fingerprint(everything().to_dict())


@pytest.mark.parametrize("optim", [{"schedule": "steps"}, {"milestones": (0.5,)}, {"schedule": "steps", "milestones": (1.5,)}])
def test_milestones_belong_to_their_schedule(optim) -> None:
    with pytest.raises(InputError, match="milestones"):
        tiny(optim=Optim(**optim))


def test_paths_that_may_be_absent_go_to_json_and_back(tmp_path) -> None:
    recipe = replace(get_recipe("shift-stereo"), model=PSMNet(start=tmp_path / "model.safetensors"))
    write_json(tmp_path / "recipe.json", recipe.to_dict())
    assert Recipe.from_dict(read_json(tmp_path / "recipe.json")) == recipe
    assert Recipe.from_dict(get_recipe("shift-stereo").to_dict()).model.start is None
