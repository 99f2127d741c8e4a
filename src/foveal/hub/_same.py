"""Whether two models are built the same, apart from their weights: what a folder says of a model is held against the model itself."""

from typing import Any

import torch
from torch import nn

__all__ = ["differences"]

_OF_USE = {"training", "grad_checkpointing", "gradient_checkpointing", "fused_attn", "name_or_path"}
"""Attributes that say how a module is run, or where it came from, and not what it computes."""


def differences(model: nn.Module, other: nn.Module) -> list[str]:
    """Where they differ: modules, their classes, their settings, names and shapes of their tensors."""
    ours, theirs = _settings(model), _settings(other)
    found = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name, _MISSING) != theirs.get(name, _MISSING):
            found.append(f"{name} is {ours.get(name, _MISSING)} in the model and {theirs.get(name, _MISSING)} as built")
    return found


_MISSING = "not there"


def _settings(model: nn.Module) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        out[f"{prefix}(class)"] = type(module).__name__
        own = {key: value for key, value in vars(module).items() if not key.startswith("_") and key not in _OF_USE and _is_simple(value)}
        out |= {prefix + key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
    out |= {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return out


def _is_simple(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_simple, value))
    return isinstance(value, (bool, int, float, str, torch.Size)) or value is None
