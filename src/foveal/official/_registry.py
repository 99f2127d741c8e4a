"""Kinds of published checkpoints, and what reads each."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from .._errors import InputError
from .._registry import Registry
from .._renamed import renamed_keys
from .._weights import misfits
from ._wrappers import unwrapped

__all__ = ["State", "kind", "list_kinds", "load", "translate"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Kind:
    translate: Callable[..., dict[str, Tensor]]
    build: Callable[..., nn.Module]
    old_names: Mapping[str, str]


_KINDS: Registry[_Kind] = Registry("kind of official checkpoint")


def kind(
    name: str, *, build: Callable[..., nn.Module], old_names: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., dict[str, Tensor]]], Callable[..., dict[str, Tensor]]]:
    """Enter a function that renames and reorders an official state dict, with the one that builds the module it fits, and old names of its settings."""

    def enter(translate: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
        _KINDS.add(name, _Kind(translate, build, old_names))
        return translate

    return enter


def list_kinds() -> list[str]:
    """Kinds that :func:`load` takes."""
    return list(_KINDS)


def translate(kind: str, state_dict: State, **settings: Any) -> dict[str, Tensor]:
    """An official state dict in our names, order and sign. The map is linear and orthogonal, so it translates gradients as well as weights.

    What trainers and wrappers put around the weights is taken off where only one reading is possible, with a warning: a name they lie under
    (``{"state_dict": …}``, ``{"model": …, "epoch": 3}``), ``module.`` or ``_orig_mod.`` before all names, thop's counters, NumPy arrays.

    Raises:
        ValueError: an unknown kind; keys that are missing or left over; several sets of weights.
    """
    return _KINDS[kind].translate(unwrapped(state_dict), **settings)


def load(kind: str, state_dict: State, **settings: Any) -> nn.Module:
    """Our module with the authors' weights, in evaluation mode.

    Args:
        kind: what the file holds, one of :func:`list_kinds`.
        state_dict: as the official code saves it, wrapped or not, see :func:`translate`.
        settings: the official module's constructor arguments, and ``sign`` (``"+"`` or ``"-"``) where the official files disagree on it.

    Returns:
        A module whose outputs and gradients are those of the official one.

    Raises:
        ValueError: an unknown kind; keys that are missing or left over; tensors whose shapes do not fit the settings.

    Example:
        >>> weights = {"qqkvv.weight": torch.randn(40, 8), "neg_scalers": torch.full((2,), 0.5), "proj.weight": torch.eye(8), "proj.bias": torch.zeros(8)}
        >>> load("dna.attention", weights, dim=8, num_heads=2, qkv_bias=False, sign="-")(torch.randn(1, 5, 8)).shape
        torch.Size([1, 5, 8])
    """
    build = _KINDS[kind].build
    # files beside checkpoints keep the words of their day
    settings = renamed_keys(kind, settings, _KINDS[kind].old_names)
    try:
        inspect.signature(build).bind(**settings)
    except TypeError as error:
        known = ", ".join(inspect.signature(build).parameters)
        raise InputError(f"settings {settings} do not fit the official kind {kind!r}: {error}; it takes {known}") from None
    module = build(**settings)
    weights = _KINDS[kind].translate(unwrapped(state_dict), **settings)
    wanted = module.state_dict()
    if problems := misfits(weights, wanted):
        raise InputError(f"the state dict is not a {kind!r} checkpoint with settings {settings}: {problems}")
    floating = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(floating) == 1:
        module = module.to(floating.pop())
    module.load_state_dict(weights)
    return module.eval()
