"""timm: attentions on feature maps whose positions are multiplied with the queries (BottleneckAttn, HaloAttn).

Positions are kept and given as a bias of pairs, made from the queries of each call. HaloAttn's blocks and windows are cut from the map before its maps: tokens
outside of the map are zeros, and so are their keys and values, which take part as they do in timm.

Shapes     B samples, H heads, (h, w) of a map, b side of a block of queries, D width of queries and keys, Dv of values, I = H · Dv
"""

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import InputError
from ..attention._apart import Apart
from ..attention._linear import is_plain, project
from ._host import Place, register_host
from ._parts import Scaled
from ._placed import Placed
from .structure import NOTHING, Mapped, NoMap

__all__: list[str] = []

BY_QUERIES = "its positions are multiplied with its queries, a number for each pair"


class _ByQueries(Placed):
    """Positions as the host has them, from queries of ours."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(attn)
        self.pos_embed, self.pool = module.pos_embed, module.pool
        self.width, self.scale = module.dim_head_qk, module.scale if module.scale_pos_embed else 1.0

    def queries(self, tokens: Tensor) -> Tensor:
        """``(B, H, N, D)``, without scale and without the zeros up to the width of values."""
        attn: Any = self.attn
        inner = attn.num_heads * attn.head_dim
        return project(attn.qkv, tokens, slice(0, inner)).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)[..., : self.width]


class BottleneckPlaced(_ByQueries):
    """Called with maps, ``(B, C, h, w)`` to ``(B, I, h, w)``, or half as large where the host pools."""

    def forward(self, x: Tensor) -> Tensor:
        size = (self.pos_embed.height, self.pos_embed.width)
        if tuple(x.shape[2:]) != size:
            raise InputError(f"{self.__dict__.get('place_name', 'a converted attention')} has positions of maps of {size}, got maps of {tuple(x.shape[2:])}")
        tokens = x.flatten(2).mT
        q = self.queries(tokens)
        bias = self.pos_embed(q.flatten(0, 1)).unflatten(0, q.shape[:2]) * self.scale
        out = self.attn(tokens, **self.options(bias=bias))
        return self.pool(out.mT.unflatten(2, x.shape[2:]))


class HaloPlaced(_ByQueries):
    """Called with maps, ``(B, C, h, w)``, of sides that blocks divide."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(module, attn)
        self.block_size, self.block_size_ds, self.halo_size, self.win_size = module.block_size, module.block_size_ds, module.halo_size, module.win_size
        self.block_stride = module.block_stride

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.block_size or x.shape[3] % self.block_size:
            raise InputError(f"expected maps of sides that blocks of {self.block_size} divide, got {tuple(x.shape[2:])}")
        rows, columns = x.shape[2] // self.block_size, x.shape[3] // self.block_size
        side = self.block_size_ds
        asks = x[:, :, :: self.block_stride, :: self.block_stride].reshape(*x.shape[:2], rows, side, columns, side)
        asks = asks.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, x.shape[1])
        read = F.pad(x, [self.halo_size] * 4).unfold(2, self.win_size, self.block_size).unfold(3, self.win_size, self.block_size)
        read = read.permute(0, 2, 3, 4, 5, 1).reshape(-1, self.win_size**2, x.shape[1])
        bias = self.pos_embed(self.queries(asks)) * self.scale
        out = self.attn(asks, **self.options(bias=bias, context=read))
        out = out.reshape(x.shape[0], rows, columns, side, side, -1).permute(0, 5, 1, 3, 2, 4)
        return self.pool(out.reshape(x.shape[0], -1, rows * side, columns * side))


def _rows(heads: int, width: int, wide: int, first: int = 0, step: int | None = None) -> list[int]:
    """Of all heads: ``width`` rows from ``first``, a head every ``step``, and zeros up to ``wide``."""
    return [row for head in range(heads) for row in [*(first + head * (step or width) + one for one in range(width)), *[NOTHING] * (wide - width)]]


def _place(module: Any, name: str, qkv: Any, dim: int) -> Place:
    heads, width, wide = module.num_heads, module.dim_head_qk, module.dim_head_v
    if width > wide:
        raise InputError(f"{name} has queries of {width} and values of {wide} a head, and attentions here have values as wide; leave it out of `where`")
    factor = (wide / width) ** 0.5
    return Place(
        dim=dim,
        dim_out=heads * wide,
        num_heads=heads,
        head_dim=wide,
        qkv=qkv,
        proj=NoMap(heads * wide, module.qkv if hasattr(module, "qkv") else module.q),
        q_norm=nn.Identity() if width == wide else Scaled(nn.Identity(), factor),
        no_grid="in a map whose positions its host has itself",
        windows=None,
        needs_pairs=BY_QUERIES,
        checked=True,
    )


def _read_bottleneck(module: Any, model: nn.Module, name: str) -> Place:
    heads, width, wide = module.num_heads, module.dim_head_qk, module.dim_head_v
    of_keys = heads * width
    rows = [*_rows(heads, width, wide), *_rows(heads, width, wide, of_keys), *_rows(heads, wide, wide, 2 * of_keys)]
    return _place(module, name, Mapped(module.qkv, (), rows), module.qkv.in_channels)


def _read_halo(module: Any, model: nn.Module, name: str) -> Place:
    heads, width, wide = module.num_heads, module.dim_head_qk, module.dim_head_v
    if module.kv.bias is not None:
        raise InputError(f"{name} has biases of keys and values, which are zeros outside of the map and not tokens of zeros; leave it out of `where`")
    if module.block_stride > 1 and not is_plain(module.q, nn.Conv2d):
        raise InputError(f"{name}.q is a convolution with steps and carries more than its weights; take it off, or leave the module out of `where`")
    step = width + wide
    q = Mapped(module.q, (), _rows(heads, width, wide))
    k, v = (Mapped(module.kv, (), rows) for rows in (_rows(heads, width, wide, 0, step), _rows(heads, wide, wide, width, step)))
    return replace(_place(module, name, Apart(q, k, v), module.q.in_channels), reads_others="its windows reach beyond the blocks that ask")


register_host("timm.layers.bottleneck_attn.BottleneckAttn", _read_bottleneck, BottleneckPlaced)
register_host("timm.layers.halo_attn.HaloAttn", _read_halo, HaloPlaced)
