"""Rates by group: layers of a pretrained network, and what is new in it."""

from typing import Any

from timm.models import group_parameters
from timm.optim._param_groups import auto_group_layers
from torch import nn

from ..._errors import InputError
from ..._param_groups import param_groups
from .recipe import Recipe

__all__ = ["grouped", "hold", "rate"]

_PRETRAINED = "pretrained"


def grouped(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters in groups for the optimizer; with ``lr_scale``, which the schedule multiplies, where rates differ. Every trainable one is in one group.

    Raises:
        ValueError: rates of their own for what is new, in a network in which nothing is.
    """
    optim = recipe.optim
    groups = param_groups(model, weight_decay=optim.weight_decay)
    new = recipe.model.new_parameters(model)
    if (optim.new_lr is not None or optim.new_first) and not new:
        raise InputError(f"new_lr and new_first are of what is new in a pretrained network, and a {type(recipe.model).__name__} has nothing new")
    if optim.layer_decay is None and optim.new_lr is None and not optim.new_first:
        return groups
    names = {id(value): name for name, value in model.named_parameters()}
    depth = _depths(model, new) if optim.layer_decay is not None else {}
    last = max(depth.values(), default=0)
    out: dict[tuple[bool, int, float], dict[str, Any]] = {}
    for group in groups:
        for value in group["params"]:
            name = names[id(value)]
            old = name not in new
            layer = depth.get(name, last) if old else last
            scale = (optim.layer_decay or 1.0) ** (last - layer) if old else (optim.new_lr or optim.lr) / optim.lr
            key = (old, layer, group["weight_decay"])
            mine = out.setdefault(key, {"params": [], "weight_decay": group["weight_decay"], "lr_scale": scale, _PRETRAINED: old})
            mine["params"].append(value)
    return [out[key] for key in sorted(out)]


def _depths(model: Any, new: frozenset[str]) -> dict[str, int]:
    """Layer by name, counted from the input: timm's own where it says so, else twelve tensors a layer, as timm does."""
    inner = model
    found = group_parameters(inner, inner.group_matcher(coarse=False), reverse=True) if hasattr(inner, "group_matcher") else auto_group_layers(inner)
    # by the order of the pretrained layers: the head, which is new, is not one that they lie below
    return {name: layer for name, layer in found.items() if name not in new}


def hold(optimizer: Any, recipe: Recipe, step: int) -> None:
    """Keep what is pretrained where it is while only what is new learns."""
    if step < round(recipe.optim.new_first * recipe.steps):
        for group in optimizer.param_groups:
            if group.get(_PRETRAINED):
                group["lr"] = 0.0


def rate(optimizer: Any) -> float:
    """The schedule's rate, before scales of groups."""
    group = next((group for group in optimizer.param_groups if not group.get(_PRETRAINED)), optimizer.param_groups[0])
    return float(group["lr"] / group.get("lr_scale", 1.0)) if "lr_scale" in group else float(group["lr"])
