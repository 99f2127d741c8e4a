"""Layers of a host as ours take them: joined, told apart, and with what stands between."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention._apart import Apart

__all__ = [
    "Copied",
    "PrefixRotary",
    "Scaled",
    "ScaledUnit",
    "Unit",
    "carry_hooks",
    "joined",
    "joined_parameters",
    "linear_of",
    "only",
    "with_separate_bias",
    "without_bias_of_keys",
]


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An ``nn.Linear`` around parameters that exist: nothing is copied or drawn."""
    with torch.device("meta"):
        out = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    out.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        out.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return out


@dataclass(frozen=True)
class Copied:
    """Some rows of a layer of ours that were a parameter of the host's."""

    layer: nn.Module
    name: str
    """``weight`` or ``bias``."""
    rows: slice | Tensor
    host: nn.Parameter
    host_rows: slice | None = None
    """Which of the host's, where others have no counterpart; all if None."""


def joined(layers: list[Any]) -> tuple[Any, tuple[Copied, ...]]:
    """Three linear maps of one input as one. Whether they become one layer or stay apart is decided for all hosts alike, see ``_sources``."""
    return Apart(*layers), ()


def joined_parameters(weights: list[Tensor], biases: list[Tensor | None]) -> tuple[nn.Linear, tuple[Copied, ...]]:
    """Several linear maps of one input as one, a copy, from weights ``(I, C, …)`` and biases; where some have none, zeros. The parameters are told from which
    rows they can be had again."""
    given = [bias for bias in biases if bias is not None]
    with torch.no_grad():
        whole = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True)]
        out = linear_of(torch.cat([weight.flatten(1) for weight in weights]), torch.cat(whole) if given else None)
    out.weight.requires_grad_(weights[0].requires_grad)
    if given:
        out.bias.requires_grad_(given[0].requires_grad)
    ends = list(accumulate(len(weight) for weight in weights))
    rows = [slice(end - len(weight), end) for weight, end in zip(weights, ends, strict=True)]
    pairs = [("weight", part, own) for part, own in zip(rows, weights, strict=True)] + [("bias", part, own) for part, own in zip(rows, biases, strict=True)]
    return out, tuple(Copied(out, name, part, own) for name, part, own in pairs if isinstance(own, nn.Parameter))


def with_separate_bias(qkv: Any, q_bias: Tensor | None, v_bias: Tensor | None) -> tuple[nn.Module, tuple[Copied, ...]]:
    """A ``qkv`` whose bias the host keeps beside it, for queries and values alone. The weight is the host's own, the bias a copy."""
    if q_bias is None or v_bias is None:
        # the host calls its layer then
        return qkv, ()
    width = len(q_bias)
    with torch.no_grad():
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    out = linear_of(qkv.weight, bias)
    out.bias.requires_grad_(q_bias.requires_grad)
    pairs = ((slice(width), q_bias), (slice(2 * width, None), v_bias))
    return out, tuple(Copied(out, "bias", rows, own) for rows, own in pairs if isinstance(own, nn.Parameter))


def without_bias_of_keys(weight: Tensor, bias: nn.Parameter) -> tuple[nn.Linear, tuple[Copied, ...]]:
    """A ``qkv`` whose host sets the bias of keys to zero in every call. The weight is the host's own, the bias a copy."""
    width = len(bias) // 3
    with torch.no_grad():
        values = bias.clone()
        values[width : 2 * width] = 0
    out = linear_of(weight, values)
    out.bias.requires_grad_(bias.requires_grad)
    return out, tuple(Copied(out, "bias", rows, bias, rows) for rows in (slice(width), slice(2 * width, None)))


def only(module: nn.Module, kept: tuple[str, ...]) -> nn.Module:
    """A module of the host's class with its settings and, of its parameters, buffers and submodules, those that are named; they are the same ones.

    What the host computes from them, it goes on to compute.
    """
    other = type(module).__new__(type(module))
    nn.Module.__init__(other)
    machinery = set(nn.Module().__dict__)
    other.__dict__.update({name: value for name, value in module.__dict__.items() if name not in machinery})
    other._parameters.update({name: value for name, value in module._parameters.items() if name in kept})
    other._buffers.update({name: value for name, value in module._buffers.items() if name in kept})
    other._modules.update({name: value for name, value in module._modules.items() if name in kept})
    other._non_persistent_buffers_set |= module._non_persistent_buffers_set & set(kept)
    return other


class Unit(nn.Module):
    """``(…, D)`` to length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class ScaledUnit(nn.Module):
    """Queries of cosine attention, ``(B, H, N, D)``: of the length that the host learns, times √D since a core divides by it."""

    def __init__(self, logit_scale: nn.Parameter) -> None:
        super().__init__()
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * (self.logit_scale.clamp(max=math.log(100.0)).exp() * x.shape[-1] ** 0.5)


class Scaled(nn.Module):
    """Queries of a host that divides its logits by something else than the root of the heads' width, behind its norm if it has one."""

    def __init__(self, norm: nn.Module, factor: float) -> None:
        super().__init__()
        self.norm, self.factor = norm, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.factor


class PrefixRotary:
    """Rotary positions of all but the first tokens."""

    def __init__(self, apply: Callable[[Tensor], Tensor], num_prefix_tokens: int) -> None:
        self.apply, self.num_prefix_tokens = apply, num_prefix_tokens

    def __call__(self, x: Tensor) -> Tensor:
        first = self.num_prefix_tokens
        return torch.cat([x[:, :, :first], self.apply(x[:, :, first:])], dim=2).type_as(x)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def carry_hooks(module: nn.Module, replacement: nn.Module) -> None:
    """A replacement is called as the module was, so hooks go on. The dictionaries themselves are handed over: handles to remove a hook keep working."""
    for name in _HOOKS:
        replacement.__dict__[name] = module.__dict__[name]
