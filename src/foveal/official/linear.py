"""Checkpoints of lironui/Linear-Attention-Mechanism, and of the networks that carry its blocks.

The official eps on the sum of key directions is loaded as ``eps``. The channel block is loaded with the operator of the official code, which is not the
paper's: a network trained with the one does not fit the other.
"""

from typing import Any

from torch import Tensor, nn

from .._errors import InputError
from ..attention import ChannelLinearAttention2d, LinearAttention2d
from ._fuse import fuse_qkv
from ._registry import State, kind

__all__: list[str] = []


def _position(channels: int, eps: float = 1e-6) -> nn.Module:
    return LinearAttention2d(channels, eps=eps)


def _channel(eps: float = 1e-6) -> nn.Module:
    return ChannelLinearAttention2d(legacy=True, eps=eps)


@kind("linear.position", build=_position)
def _translate_position(state: State, **settings: Any) -> dict[str, Tensor]:
    return fuse_qkv(state, ("query_conv", "key_conv", "value_conv"), {"gamma": "gamma"})


@kind("linear.channel", build=_channel)
def _translate_channel(state: State, **settings: Any) -> dict[str, Tensor]:
    if strange := state.keys() - {"gamma"}:
        raise InputError(f"the official channel attention has one key, gamma; got also {', '.join(sorted(strange))}")
    return dict(state)
