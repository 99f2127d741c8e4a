"""The study's runs on images: the default job of a comparison, read off the mean of tokens, with data of its own for every seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...models import ViT, share_initial_weights_
from ..data import ClutteredDigits
from ..recipes import get_recipe
from ..training import Recipe, fit
from ..training.checkpoint import read_weights
from ..training.reading import read_history
from .angles import mean_angle
from .kinds import KINDS, Kind
from .registration import Layer, Part
from .unit import Unit

__all__ = ["SMALL", "angles_of_run", "arm_in", "image_recipe", "train_images"]

SMALL = ClutteredDigits(source="digits", cells=2, digit=8, distractors=3, distractor_level=0.7)
"""Scenes of four digits of 8×8 pixels, 16 patches."""


def image_recipe(part: Part, arm: str, rate: float, seed: int, setting: str = "") -> Recipe:
    """The recipe of one run: that of cluttered digits but for what the part says."""
    recipe = get_recipe("cluttered-digits")
    scenes: dict[str, Any] = {"seed": seed, "test_scenes": part.test_scenes}
    if part.train_scenes is not None:
        scenes |= {"train_scenes": part.train_scenes, "val_scenes": min(part.test_scenes, 2000)}
    assert isinstance(recipe.data, ClutteredDigits), "cluttered digits are of ClutteredDigits"
    data = recipe.data
    if part.kind in _SMALL_KINDS:
        data = replace(SMALL, distractor_classes=setting or "any")  # type: ignore[arg-type]  # a registered word
    return replace(
        recipe,
        data=replace(data, **scenes),
        model=arm_in(part, arm, setting),
        optim=replace(recipe.optim, lr=rate),
        steps=part.steps,
        batch_size=part.batch,
        eval_every=part.steps,
        seed=seed,
        share_initial_weights=True,
        trackers=(),
    )


_SMALL_KINDS = ("lookalikes", "small-scenes", "retrofit")


def arm_in(part: Part, arm: str, setting: str) -> ViT:
    """The network of an arm, by its name in a comparison."""
    patch = 4 if part.kind in _SMALL_KINDS else None
    model = ViT(global_pool="avg", depth=part.depth_in(setting), patch_size=patch).arms()[arm].model
    assert isinstance(model, ViT), "arms of a vision transformer are such"
    return model


def train_images(unit: Unit, folder: Path) -> dict[str, float]:
    """Accuracy on the test scenes, and on the validation scenes, by which rates are chosen. A run that was stopped goes on."""
    run = folder / unit.place
    metrics = fit(image_recipe(unit.part, unit.arm, unit.rate, unit.seed, unit.setting), run, resume=True, quiet=True)
    return {"accuracy": float(metrics["accuracy"]), "val_accuracy": float(read_history(run / "history.jsonl", ("val_accuracy",))[-1]["val_accuracy"])}


def angles_of_run(unit: Unit, folder: Path) -> dict[str, float] | None:
    """Mean principal angles that a run began and ended with, read from what it left; None where it left no weights, or has not two value maps."""
    weights = folder / unit.place / "model.safetensors"
    if not weights.exists():
        return None
    model, size = arm_in(unit.part, unit.arm, unit.setting), {"img_size": _side(unit.part), "in_chans": 1, "num_classes": 10}
    # as training begins: foveal.lab.training.models.build_model, which would make the scenes for the size
    torch.manual_seed(unit.seed)
    net = model.build(**size)
    torch.manual_seed(unit.seed)
    share_initial_weights_(net, model.plain().build(**size))
    start = mean_angle(net)
    if start is None:
        return None
    net.load_state_dict(read_weights(weights))
    end = mean_angle(net)
    assert end is not None, "a network keeps its value maps"
    return {"start": start, "end": end}


def _side(part: Part) -> int:
    """Of a scene, in pixels."""
    return 16 if part.kind in _SMALL_KINDS else 36


def _build(part: Part, arm: str, layer: Layer, setting: str) -> nn.Module:
    with torch.device("meta"):
        return arm_in(part, arm, setting).build(img_size=_side(part), in_chans=1, num_classes=10)


for _kind in ("images", "lookalikes"):
    KINDS.add(_kind, Kind(train_images, _build, "val_accuracy", angles_of_run))
