"""Small scenes of digits learned in a plain loop, where a run is to be watched as it goes, or begins from another's weights."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...analysis import value_overlap
from ..training import Recipe
from ..training.judging import Diverged, not_finite
from ..training.models import build_model, load_data
from ..training.optimizing import make_optimizer, make_schedule
from .angles import AnglesSeen, Watch
from .images import _build, image_recipe
from .kinds import KINDS, Kind
from .registration import Layer
from .unit import Unit

__all__ = ["accuracy_of", "in_memory", "learn"]

Scenes = tuple[Tensor, Tensor]
"""Images ``(n, 1, H, W)`` and labels ``(n,)``."""
_CHUNK = 1000
"""Scenes at a time in a test."""


def in_memory(split: object) -> Scenes:
    """All scenes of a split."""
    samples = [split[index] for index in range(len(split))]  # type: ignore[arg-type, index]  # a sequence of samples
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def learn(net: nn.Module, scenes: Scenes, recipe: Recipe, *, overlap_weight: float = 0.0, watch: Watch | None = None) -> nn.Module:
    """As a recipe trains, without checkpoints; the seed decides the order of scenes, the same for every arm."""
    images, labels = scenes
    optimizer = make_optimizer(net, recipe)
    schedule = make_schedule(optimizer, recipe)
    order = _order(len(images), recipe)
    net.train()
    for step in range(recipe.steps):
        if watch is not None:
            watch(step)
        schedule.step_update(step)
        chosen = order(step)
        loss = F.cross_entropy(net(images[chosen]), labels[chosen])
        if overlap_weight:
            loss = loss + overlap_weight * value_overlap(net)
        optimizer.zero_grad()
        loss.backward()
        if recipe.optim.clip_grad is not None:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.optim.clip_grad)
        optimizer.step()
    if spoilt := not_finite(net):
        raise Diverged(f"{spoilt[0]} is not finite after step {recipe.steps}; its answers would count as guesses")
    if watch is not None:
        watch(recipe.steps)
    return net.eval()


@torch.no_grad()
def accuracy_of(net: nn.Module, scenes: Scenes) -> float:
    images, labels = scenes
    right = sum(int((net(images[at : at + _CHUNK]).argmax(1) == labels[at : at + _CHUNK]).sum()) for at in range(0, len(images), _CHUNK))
    return right / len(images)


def run_scenes(unit: Unit, folder: Path) -> dict[str, float]:
    """A run of the study."""
    arm = NETWORK_OF.get(unit.arm, unit.arm)
    recipe = image_recipe(unit.part, arm, unit.rate, unit.seed, unit.setting)
    bundle = load_data(recipe.data)
    net = build_model(recipe, bundle)
    seen = AnglesSeen(recipe.steps)
    learn(net, in_memory(bundle.train), recipe, overlap_weight=unit.layer.overlap_weight, watch=seen.of(net) if unit.part.angles else None)
    return {"accuracy": accuracy_of(net, in_memory(bundle.test)), "val_accuracy": accuracy_of(net, in_memory(bundle.val))} | seen.values()


NETWORK_OF = {"denoising-apart": "denoising", "denoising-equal-apart": "denoising-equal"}
"""Arms that differ from another in what is added to the loss alone."""


def _order(count: int, recipe: Recipe) -> Callable[[int], Tensor]:
    generator, size = torch.Generator().manual_seed(recipe.seed), recipe.batch_size
    batches = -(-recipe.steps * size // count)
    drawn = torch.cat([torch.randperm(count, generator=generator) for _ in range(batches)])
    return lambda step: drawn[step * size : (step + 1) * size]


def _network(part: object, arm: str, layer: Layer, setting: str) -> nn.Module:
    return _build(part, NETWORK_OF.get(arm, arm), layer, setting)  # type: ignore[arg-type]


KINDS.add("small-scenes", Kind(run_scenes, _network, "val_accuracy"))
