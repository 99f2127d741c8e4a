"""Checkpoints of rjccv/DnA.

The authors write one attention in three layouts, told apart by their keys:

=============  ==========================================================  ==========
layout         rows                                                        where
=============  ==========================================================  ==========
fused          ``qqkvv`` = [Q⁺, Q⁻, K, V⁺, V⁻]; ``qqkv`` = [Q⁺, Q⁻, K, V]  vit
apart          ``qkv`` = [Q⁺, K, V⁺], ``q_neg``, ``v_neg``                 timesformer
six            ``q_pos_proj``, ``q_neg_proj``, ``k_proj``, ``v_pos_proj``, ``v_neg_proj``, ``out_proj``  viscop
=============  ==========================================================  ==========

Their own loader turns *apart* into *fused* by concatenating ``[qkv | q_neg | v_neg]``, which puts K where Q⁻ is read, V⁺ where K is, and Q⁻ where V⁺ is.
The shapes agree, so nothing complains. Here the rows are read by name.

Where a file adds the negative branch (``sign="+"``) the sign goes into V⁻, or into λ where the values are shared.
"""

import re
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import DenoisingAttention
from ._registry import State, kind

__all__ = ["read_attention"]

Sign = Literal["+", "-"]

_FUSED = {"qqkvv": ("q", "q_neg", "k", "v", "v_neg"), "qqkv": ("q", "q_neg", "k", "v")}
_APART = {"qkv": ("q", "k", "v"), "q_neg": ("q_neg",), "v_neg": ("v_neg",)}
_SIX = {"q_pos_proj": ("q",), "q_neg_proj": ("q_neg",), "k_proj": ("k",), "v_pos_proj": ("v",), "v_neg_proj": ("v_neg",)}
_ROWS = _FUSED | _APART | _SIX


def read_attention(state: State, sign: Sign) -> dict[str, Tensor]:
    """One attention, in any of the three layouts, as :class:`~foveal.DenoisingAttention` names it."""
    if sign not in ("+", "-"):
        raise InputError(f'sign must be "+" or "-": whether the official file adds or subtracts the negative branch; got {sign!r}')
    parts: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        layer, _, field = key.partition(".")
        if layer in _ROWS:
            names = _ROWS[layer]
            parts |= {f"{name}.{field}": rows for name, rows in zip(names, value.chunk(len(names)), strict=True)}
        elif layer in ("proj", "out_proj"):
            out[f"proj.{field}"] = value
        elif key == "neg_scalers":
            out["lambdas"] = value
        else:
            raise InputError(f"{key!r} belongs to none of the official layouts of denoising attention; known: {', '.join(_ROWS)}, proj, out_proj, neg_scalers")
    shared = "v_neg.weight" not in parts
    for field in ("weight", "bias"):
        if f"q.{field}" in parts:
            out[f"qkv.{field}"] = torch.cat([parts[f"{name}.{field}"] for name in ("q", "k", "v")])
            out[f"q_neg.{field}"] = parts[f"q_neg.{field}"]
            if not shared:
                out[f"v_neg.{field}"] = parts[f"v_neg.{field}"] if sign == "-" else -parts[f"v_neg.{field}"]
    if shared and sign == "+":
        out["lambdas"] = -out["lambdas"]
    return out


def _attention(dim: int, num_heads: int, sign: Sign, qkv_bias: bool = True, shared_values: bool = False) -> nn.Module:
    return DenoisingAttention(dim, num_heads, qkv_bias=qkv_bias, shared_values=shared_values)


def _probes(dim: int, num_heads: int, sign: Sign) -> nn.Module:
    return DenoisingAttention(dim, num_heads, qkv_bias=True)


def _vit(
    img_size: int, patch_size: int, embed_dim: int, depth: int, num_heads: int, num_classes: int, sign: Sign, qkv_bias: bool = True, norm_eps: float = 1e-6
) -> nn.Module:
    # not at the top: it needs timm, and Foveal alone does not
    from ..models.dna_vit import DenoisingViT

    return DenoisingViT(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        num_classes=num_classes,
        qkv_bias=qkv_bias,
        norm_layer=partial(nn.LayerNorm, eps=norm_eps),
    )


def _timesformer(
    img_size: int,
    patch_size: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    num_frames: int,
    num_classes: int,
    sign: Sign,
    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time",
    qkv_bias: bool = True,
    norm_eps: float = 1e-6,
) -> nn.Module:
    # not at the top: it needs timm, and Foveal alone does not
    from ..models.timesformer import TimeSformer

    return TimeSformer(
        attention="denoising",
        attention_type=attention_type,
        num_frames=num_frames,
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        num_classes=num_classes,
        qkv_bias=qkv_bias,
        norm_layer=partial(nn.LayerNorm, eps=norm_eps),
    )


@kind("dna.attention", build=_attention)
def _translate_attention(state: State, *, sign: Sign, **settings: Any) -> dict[str, Tensor]:
    return read_attention(state, sign)


@kind("dna.shared_values", build=partial(_attention, shared_values=True))
def _translate_shared(state: State, *, sign: Sign, **settings: Any) -> dict[str, Tensor]:
    return read_attention(state, sign)


@kind("dna.cross_probes", build=_probes)
def _translate_probes(state: State, *, sign: Sign, **settings: Any) -> dict[str, Tensor]:
    return read_attention(state, sign)


@kind("dna.timesformer", build=_timesformer)
@kind("dna.vit", build=_vit)
def _translate_blocks(state: State, *, sign: Sign, **settings: Any) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    attentions: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(blocks\.\d+\.(?:temporal_)?attn\.)(.+)", key):
            attentions.setdefault(match[1], {})[match[2]] = value
        else:
            out[key] = value
    for prefix, attention in attentions.items():
        out |= {prefix + key: value for key, value in read_attention(attention, sign).items()}
    return out
