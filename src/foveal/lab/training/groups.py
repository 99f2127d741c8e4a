"""Rates by group: layers of a pretrained network, what is new in it, and parameters by name."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from timm.models import group_parameters
from timm.optim._param_groups import auto_group_layers
from torch import nn

from ..._errors import InputError
from ..._param_groups import param_groups
from .recipe import Recipe

__all__ = ["grouped", "hold", "own_rates", "rate", "rates_in_use"]

_PRETRAINED = "pretrained"


def grouped(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters in groups for the optimizer; with ``lr_scale``, which the schedule multiplies, where rates differ. Every trainable one is in one group.

    Raises:
        ValueError: rates of their own for what is new, in a network in which nothing is; a pattern of names that no trainable parameter has.
    """
    optim = recipe.optim
    groups = param_groups(model, weight_decay=optim.weight_decay)
    if optim.decay_all:
        groups = [{"params": [value for group in groups for value in group["params"]], "weight_decay": optim.weight_decay}]
    new = recipe.model.new_parameters(model)
    if (optim.new_lr is not None or optim.new_first) and not new:
        raise InputError(f"new_lr and new_first are of what is new in a pretrained network, and a {type(recipe.model).__name__} has nothing new")
    if optim.layer_decay is None and optim.new_lr is None and not optim.new_first and not optim.lr_of:
        return groups
    names = {id(value): name for name, value in model.named_parameters()}
    own = own_rates(optim.lr_of, [names[id(value)] for group in groups for value in group["params"]])
    depth = _depths(model, new) if optim.layer_decay is not None else {}
    last = max(depth.values(), default=0)
    out: dict[tuple[bool, int, float, float], dict[str, Any]] = {}
    for group in groups:
        for value in group["params"]:
            name = names[id(value)]
            old = name not in new
            layer = depth.get(name, last) if old else last
            scale = (optim.layer_decay or 1.0) ** (last - layer) if old else (optim.new_lr or optim.lr) / optim.lr
            scale = own[name] / optim.lr if name in own else scale
            key = (old, layer, group["weight_decay"], own.get(name, 0.0))
            mine = out.setdefault(key, {"params": [], "weight_decay": group["weight_decay"], "lr_scale": scale, _PRETRAINED: old})
            mine["params"].append(value)
    return [out[key] for key in sorted(out)]


def own_rates(rates: Mapping[str, float], names: list[str]) -> dict[str, float]:
    """The rate of each parameter that a pattern fits, of the first that does.

    Raises:
        ValueError: a pattern that fits none of the names, or none that is left for it.
    """
    fitting = _deciding(rates, names)
    for pattern in rates:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:3])
            raise InputError(f"lr_of has {pattern!r}, and no parameter that is trained is named so; names are as {some}; * stands for anything")
        if pattern not in fitting.values():
            raise InputError(f"lr_of has {pattern!r}, and an earlier pattern fits all that it fits; put it in front")
    return {name: rates[pattern] for name, pattern in fitting.items()}


def rates_in_use(rates: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Of rates for more names than these, those that decide one of them; the rate of each name stays what it was."""
    deciding = set(_deciding(rates, names).values())
    return {pattern: rate for pattern, rate in rates.items() if pattern in deciding}


def _deciding(rates: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """The first pattern that fits, by name; without names that none fits."""
    return {name: pattern for name in names if (pattern := next((pattern for pattern in rates if fnmatchcase(name, pattern)), None)) is not None}


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
