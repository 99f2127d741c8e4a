"""Weights of timm's ``HaloAttn`` and of lucidrains/halonet-pytorch. HaloNet has no official code; these two are what checkpoints come from.

timm's names are ours. Its border is not masked, its strided queries count offsets as if they were neighbors, its tables have dead rows: all kept, by flags.
In halonet-pytorch keys and values of all heads lie one after the other, ``[k | v]``; ours (and timm's) are ``[k, v]`` head by head.
Its linear layers are 1×1 convolutions here, its relative logits are scaled.
"""

from torch import Tensor, nn

from .._errors import InputError
from ..attention import HaloAttention2d
from ..attention._halo_timm import halo_as_timm
from ._registry import State, kind

__all__: list[str] = []


def _masked(dim: int, block_size: int, halo_size: int, dim_head: int = 64, heads: int = 8) -> nn.Module:
    return HaloAttention2d(
        dim,
        dim,
        heads,
        block_size,
        halo_size,
        dim_head=dim_head,
        value_ratio=heads * dim_head / dim,
        out_proj=True,
        scale_pos_embed=True,
        tight_tables=False,
    )


@kind("halo.timm", build=halo_as_timm)
def _translate_timm(state: State, **settings: object) -> dict[str, Tensor]:
    return dict(state)


@kind("halo.masked", build=_masked)
def _translate_masked(state: State, *, heads: int = 8, **settings: int) -> dict[str, Tensor]:
    names = {
        "to_q.weight": "q.weight",
        "to_kv.weight": "kv.weight",
        "to_out.weight": "proj.weight",
        "to_out.bias": "proj.bias",
        "rel_pos_emb.rel_height": "pos_embed.height_rel",
        "rel_pos_emb.rel_width": "pos_embed.width_rel",
    }
    out = {}
    for key, value in state.items():
        if key not in names:
            raise InputError(f"{key!r} is no key of halonet-pytorch's HaloAttention; expected {', '.join(names)}")
        if key == "to_kv.weight":
            value = value.unflatten(0, (2, heads, -1)).transpose(0, 1).flatten(0, 2)
        out[names[key]] = value[:, :, None, None] if key.startswith("to_") and key.endswith("weight") else value
    return out
