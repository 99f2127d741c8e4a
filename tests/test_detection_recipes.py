"""Recipes of detection: every one makes a network that fits its data, and those on COCO have the arms and the schedule that they name."""

import pytest
import torch

from foveal import EfficientAttention2d, ExternalAttention2d, HaloAttention2d
from foveal.lab.recipes import get_recipe, list_recipes
from foveal.lab.training import Recipe
from foveal.models import PyramidDetector

COCO = [name for name in list_recipes() if name.startswith("coco-")]
MODULES = {"coco-efficient": (EfficientAttention2d, 7), "coco-halo": (HaloAttention2d, 3)}


@pytest.mark.parametrize("name", COCO)
def test_coco_recipes_go_to_json_and_build_what_they_name(name, monkeypatch) -> None:
    recipe = get_recipe(name)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.data.masks == recipe.task.masks == ("mask" in recipe.model.host)
    assert {"none", "pointwise"} <= set(recipe.model.arms())
    assert 11.5 < recipe.steps * recipe.batch_size / 117_266 < 12.5, "epochs of the images with objects"
    options = {**vars(recipe.model), "pretrained": False}
    with torch.device("meta"):
        net = PyramidDetector(**options).build(img_size=800, in_chans=3, num_classes=80)
    kind, count = MODULES.get(name, (ExternalAttention2d, 1))
    assert sum(isinstance(module, kind) for module in net.modules()) == count


def test_there_is_a_recipe_for_every_host() -> None:
    assert {get_recipe(name).model.host for name in COCO} == {"retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn"}
    assert all(name in list_recipes() for name in ("digit-detection", "flag-detection", "nuclei-detection"))
