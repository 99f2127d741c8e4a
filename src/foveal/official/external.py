"""Checkpoints of MenghaoGuo/EANet.

The official value memory is the weight of a layer from slots to channels, ``(D, S)``; ours holds one slot a row, ``(S, D)``.
The official divisor over slots has 1e-9 added, which is loaded as ``eps``.
"""

from collections.abc import Callable

from torch import Tensor, nn

from .._errors import InputError
from ..attention import ExternalAttention, ExternalAttention2d
from ._registry import State, kind

__all__: list[str] = []

_EPS = 1e-9

_Rule = tuple[str, Callable[[Tensor], Tensor]]


def _same(value: Tensor) -> Tensor:
    return value


# beginnings of official keys: our beginning, and what happens to the tensor
_CONV2D: dict[str, _Rule] = {
    "conv1.": ("conv1.", _same),
    "conv2.0.": ("conv2.", _same),
    "conv2.1.": ("bn.", _same),
    "linear_0.weight": ("memory.memory_k", lambda value: value.squeeze(-1)),
    "linear_1.weight": ("memory.memory_v", lambda value: value.squeeze(-1).mT),
}
_MULTIHEAD: dict[str, _Rule] = {
    "trans_dims.": ("q.", _same),
    "proj.": ("proj.", _same),
    "linear_0.weight": ("memory.memory_k", _same),
    "linear_1.weight": ("memory.memory_v", lambda value: value.mT),
    "linear_0.bias": ("memory.bias_k", _same),
    "linear_1.bias": ("memory.bias_v", _same),
}


def _conv2d(channels: int, memory: int = 64) -> nn.Module:
    return ExternalAttention2d(channels, slots=memory, eps=_EPS)


def _multihead(dim: int, num_heads: int, coef: int = 4, memory: int = 64) -> nn.Module:
    return ExternalAttention(dim, num_heads, qkv_bias=True, slots=memory, expand=coef, bias=True, eps=_EPS)


@kind("external.conv2d", build=_conv2d)
def _translate_conv2d(state: State, **settings: int) -> dict[str, Tensor]:
    return _rename(state, _CONV2D)


@kind("external.multihead", build=_multihead)
def _translate_multihead(state: State, **settings: int) -> dict[str, Tensor]:
    return _rename(state, _MULTIHEAD)


def _rename(state: State, rules: dict[str, _Rule]) -> dict[str, Tensor]:
    out = {}
    for key, value in state.items():
        beginning = next((beginning for beginning in rules if key.startswith(beginning)), None)
        if beginning is None:
            raise InputError(f"{key!r} is no key of this official external attention; expected {', '.join(rules)}")
        ours, change = rules[beginning]
        out[ours + key.removeprefix(beginning)] = change(value)
    return out
