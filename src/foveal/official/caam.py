"""Blocks of Wangt-CN/CaaM. Names are ours but for the gate."""

from torch import Tensor, nn

from ._registry import State, kind

__all__: list[str] = []

_GATE = {
    "cbam.ChannelGate.mlp.1.": "gate.fc1.",
    "cbam.ChannelGate.mlp.3.": "gate.fc2.",
    "cbam.SpatialGate.spatial.conv.": "gate.conv.",
    "cbam.SpatialGate.spatial.bn.": "gate.bn.",
}


def _split(channels: int, reduction: int = 16) -> nn.Module:
    # here and below not at the top: it needs timm, and Foveal alone does not
    from ..models.caam import SplitBlock

    return SplitBlock(channels, channels, reduction=reduction)


def _two_streams(channels: int, out_channels: int, stride: int = 1, reduction: int = 16) -> nn.Module:
    from ..models.caam import TwoStreamBlock

    return TwoStreamBlock(channels, out_channels, stride, reduction=reduction)


def _tokens(dim: int, num_heads: int, mlp_ratio: float = 2.0, qkv_bias: bool = False) -> nn.Module:
    from ..models.caam import CausalBlock

    return CausalBlock(dim, num_heads, mlp_ratio, qkv_bias=qkv_bias)


@kind("caam.cnn_split", build=_split)
@kind("caam.cnn_bipath", build=_two_streams)
def _translate_block(state: State, **settings: object) -> dict[str, Tensor]:
    out = {}
    for key, value in state.items():
        beginning = next((beginning for beginning in _GATE if key.startswith(beginning)), "")
        out[_GATE.get(beginning, "") + key.removeprefix(beginning)] = value
    return out


@kind("caam.vit_block", build=_tokens)
def _translate_tokens(state: State, **settings: object) -> dict[str, Tensor]:
    return dict(state)
