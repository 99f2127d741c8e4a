"""Checkpoints of MenghaoGuo/EANet.

The official value memory is the weight of a layer from slots to channels, ``(D, S)``; ours holds one slot a row, ``(S, D)``.
The official divisor over slots has 1e-9 added, which is loaded as ``eps``.
"""

import re
from typing import Any, Literal

from torch import Tensor, nn

from .._errors import unknown
from ..attention import ExternalAttention, ExternalAttention2d
from ._registry import State, kind
from ._rename import Rule, rename, same

__all__: list[str] = []

_EPS = 1e-9
_WHAT = "external attention"

# beginnings of official keys: our beginning, and what happens to the tensor
_CONV2D: dict[str, Rule] = {
    "conv1.": ("conv1.", same),
    "conv2.0.": ("conv2.", same),
    "conv2.1.": ("bn.", same),
    "linear_0.weight": ("memory.memory_k", lambda value: value.squeeze(-1)),
    "linear_1.weight": ("memory.memory_v", lambda value: value.squeeze(-1).mT),
}
_MULTIHEAD: dict[str, Rule] = {
    "trans_dims.": ("q.", same),
    "proj.": ("proj.", same),
    "linear_0.weight": ("memory.memory_k", same),
    "linear_1.weight": ("memory.memory_v", lambda value: value.mT),
    "linear_0.bias": ("memory.bias_k", same),
    "linear_1.bias": ("memory.bias_v", same),
}
_TOKENS: dict[str, Rule] = {
    "q_linear.": ("reduce.", same),
    "proj.": ("attn.proj.", same),
    "linear_0.weight": ("attn.memory.memory_k", same),
    "linear_1.weight": ("attn.memory.memory_v", lambda value: value.mT),
    "linear_1.bias": ("attn.memory.bias_v", same),
}
_TOKEN_DROP = {"performer": 0.1, "transformer": 0.0}


def _conv2d(channels: int, memory: int = 64) -> nn.Module:
    return ExternalAttention2d(channels, slots=memory, eps=_EPS)


def _multihead(dim: int, num_heads: int, coef: int = 4, memory: int = 64) -> nn.Module:
    return ExternalAttention(dim, num_heads, qkv_bias=True, slots=memory, expand=coef, bias=True, eps=_EPS)


def _eamlp(
    img_size: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float,
    num_classes: int,
    in_chans: int = 3,
    token_dim: int = 64,
    tokens_type: Literal["performer", "transformer"] = "performer",
) -> nn.Module:
    # not at the top: it needs timm, and Foveal alone does not
    from ..models.t2t import T2TViT

    if tokens_type not in _TOKEN_DROP:
        raise unknown("tokens_type of EAMLP", tokens_type, _TOKEN_DROP)
    return T2TViT(
        attention="external",
        options={"slots": 64, "expand": 4, "bias": True, "eps": _EPS},
        token_attention="external",
        token_options={"slots": 128, "eps": _EPS},
        img_size=img_size,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        token_dim=token_dim,
        token_drop=_TOKEN_DROP[tokens_type],
        qkv_bias=True,
    )


@kind("external.conv2d", build=_conv2d)
def _translate_conv2d(state: State, **settings: int) -> dict[str, Tensor]:
    return rename(state, _CONV2D, _WHAT)


@kind("external.multihead", build=_multihead)
def _translate_multihead(state: State, **settings: int) -> dict[str, Tensor]:
    return rename(state, _MULTIHEAD, _WHAT)


@kind("external.eamlp", build=_eamlp)
def _translate_eamlp(state: State, **settings: Any) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(blocks\.\d+\.attn\.)(.+)", key):
            out |= {match[1] + ours: changed for ours, changed in rename({match[2]: value}, _MULTIHEAD, _WHAT).items()}
        elif match := re.fullmatch(r"tokens_to_token\.(attention\d\.)attn\.(.+)", key):
            out |= {f"patch_embed.{match[1]}{ours}": changed for ours, changed in rename({match[2]: value}, _TOKENS, _WHAT).items()}
        else:
            out[key.replace("tokens_to_token.", "patch_embed.")] = value
    return out
