"""A trained softmax network, changed into an arm without a change of its function, and trained on."""

from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from ...attention import DenoisingAttention
from ...convert import convert_, widen_
from ..training.checkpoint import read_weights, write_weights
from ..training.models import build_model, load_data
from .images import image_recipe
from .kinds import KINDS, Kind
from .registration import Layer, Part
from .small_scenes import accuracy_of, in_memory, learn
from .unit import Unit

__all__ = ["change_", "trained_base"]

FIRST, THEN = "any", "lookalikes"
"""Distractors that the network is trained with, and those that it is fine-tuned and judged with."""


def change_(net: nn.Module, arm: str) -> nn.Module:
    """The network as the arm, in place: what it computes is what it was."""
    if arm == "softmax":
        return net
    if arm == "softmax-wide":
        widen_(net, times=1.5)
    else:
        convert_(net, DenoisingAttention.Config(shared_values=arm == "denoising-shared"), warm_start="exact")
    return net


def trained_base(part: Part, seed: int, folder: Path) -> nn.Module:
    """The softmax network of a seed, trained once for all arms and rates."""
    recipe = replace(image_recipe(part, "softmax", part.base_rate, seed, FIRST), steps=part.base_steps)
    bundle = load_data(recipe.data)
    net, path = build_model(recipe, bundle), folder / part.name / "base" / f"seed-{seed}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    # runs side by side want the same one
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_weights(path, learn(net, in_memory(bundle.train), recipe).state_dict())
    net.load_state_dict(read_weights(path))
    return net


def run_retrofit(unit: Unit, folder: Path) -> dict[str, float]:
    """A run of the study; ``before`` is the accuracy on the new scenes before it is trained on."""
    net = trained_base(unit.part, unit.seed, folder)
    recipe = image_recipe(unit.part, "softmax", unit.rate, unit.seed, THEN)
    bundle = load_data(recipe.data)
    torch.manual_seed(unit.seed)
    change_(net, unit.arm)
    test, before = in_memory(bundle.test), {}
    before["before"] = accuracy_of(net.eval(), test)
    learn(net, in_memory(bundle.train), recipe)
    return {"accuracy": accuracy_of(net, test), "val_accuracy": accuracy_of(net, in_memory(bundle.val))} | before


def _build(part: Part, arm: str, layer: Layer, setting: str) -> nn.Module:
    return change_(image_recipe(part, "softmax", part.base_rate, 0, FIRST).model.build(img_size=16, in_chans=1, num_classes=10), arm)


KINDS.add("retrofit", Kind(run_retrofit, _build, "val_accuracy"))
