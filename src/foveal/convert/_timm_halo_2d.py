"""timm's ``HaloAttn`` as our halo attention on maps, and ``BottleneckAttn`` as that of one block: their weights, under their names where they have such.

What a place is, it says: channels, heads, widths, biases, steps, pooling, and whether positions are scaled. The configuration says the geometry, and
``mask_border``, ``strided_offsets`` and ``tight_tables``, as everywhere; the function is kept where these are timm's, see :mod:`foveal.functional.halo`.

Shapes     H heads, b side of a block, h its halo, s step between queries, D width of queries and keys, Dv of values
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import HaloAttention2d
from ..attention._apart import Apart
from ..attention._transfer import Transfer
from ._hanging import hangs_on, hangs_on_parameter, is_readable
from ._host import Place
from ._on_maps import Adopted, register_on_maps
from ._parts import Copied
from .structure import NoMap

__all__ = ["HaloInPlace"]

_OF_TIMM = "mask_border=False, strided_offsets=False"


class HaloInPlace(HaloAttention2d):
    """In the place of timm's: pooled as timm pools, and refused where timm's own cannot run."""

    whole = ""
    """Of what size maps have to be: ``blocks``, several whole blocks; ``map``, one block; empty for any."""

    pool: nn.Module
    """The host's own, which leaves an odd row out."""

    def _pool(self, x: Tensor) -> Tensor:
        return self.pool(x)

    def _options(self, x: Tensor, mask: Tensor | None) -> dict[str, Any]:
        options, size = super()._options(x, mask), tuple(x.shape[2:])
        at = self.__dict__.get("place_name", "a converted attention")
        if self.whole == "map" and size != (self.block_size, self.block_size):
            raise InputError(f"{at} has positions of maps of {self.block_size} × {self.block_size}, got maps of {size[0]} × {size[1]}")
        if self.whole == "blocks" and (size[0] % self.block_size or size[1] % self.block_size):
            raise InputError(
                f"{at} expected maps of sides that blocks of {self.block_size} divide, as timm's own, got {size[0]} × {size[1]}: zeros outside of the map "
                "would take part; convert with mask_border=True for maps of any size"
            )
        return options


def _adopt_halo(module: Any, config: Any, name: str) -> Adopted:
    made = _made(module, config, name, module.q.in_channels, module.block_size, module.halo_size, module.block_stride, module.q.bias is not None)
    made.q, made.kv = module.q, module.kv
    transfer = Transfer(kept=[f"{part}.{key}" for part in ("q", "kv") for key, _ in getattr(module, part).named_parameters()])
    copied = _tables(made, module, transfer, name)
    masked, counted = made.mask_border and made.halo_size > 0, made.strided_offsets and made.query_stride > 1
    made.whole = "" if made.mask_border else "blocks"
    if masked:
        transfer.notes.append("pixels outside of the map get no weight any more, which were zeros that took a share: mask_border=False keeps that")
    if counted:
        transfer.notes.append("offsets of its queries are counted in pixels, and timm's count queries: strided_offsets=False keeps that")
    transfer.function = "changed" if masked or counted else "kept"
    return _adopted(made, module, transfer, [module.q, module.kv, module.kv], copied)


def _adopt_bottleneck(module: Any, config: Any, name: str) -> Adopted:
    height, width = module.pos_embed.height, module.pos_embed.width
    if height != width:
        raise InputError(f"{name} has positions of maps of {height} × {width}, and blocks here are squares; leave it out of `where`")
    if not is_readable(module.qkv):
        raise InputError(f"{name}.qkv is more than a convolution of single pixels, and its rows become those of two; merge or remove what hangs on it first")
    made = _made(module, config, name, module.qkv.in_channels, height, 0, 1, module.qkv.bias is not None)
    rows = _rows_of_bottleneck(made)
    transfer, copied = Transfer(function="kept"), []
    for part, ranges in rows.items():
        layer = getattr(made, part)
        for key, host in module.qkv.named_parameters():
            with torch.no_grad():
                value = nn.Parameter(torch.cat([host[of_host] for _, of_host in ranges]), requires_grad=host.requires_grad)
            setattr(layer, key, value)
            transfer.mapped.append(f"{part}.{key}")
            copied += [Copied(layer, key, ours, host, of_host) for ours, of_host in ranges]
    copied += _tables(made, module, transfer, name)
    made.whole = "map"
    return _adopted(made, module, transfer, [module.qkv] * 3, tuple(copied))


def _rows_of_bottleneck(made: HaloInPlace) -> dict[str, list[tuple[slice, slice]]]:
    """Rows of ours and of the host's, whose queries, keys and values lie one behind the other; our keys and values lie head by head."""
    heads, narrow, wide = made.num_heads, made.dim_head, made.dim_head_v
    inner, pairs = heads * narrow, []
    for head in range(heads):
        at = head * (narrow + wide)
        pairs.append((slice(at, at + narrow), slice(inner + head * narrow, inner + (head + 1) * narrow)))
        pairs.append((slice(at + narrow, at + narrow + wide), slice(2 * inner + head * wide, 2 * inner + (head + 1) * wide)))
    return {"q": [(slice(inner), slice(inner))], "kv": pairs}


def _made(module: Any, config: Any, name: str, channels: int, block: int, halo: int, step: int, bias: bool) -> HaloInPlace:
    """Ours of the place's sizes, without memory.

    Raises:
        ValueError: the configuration says other ones.
    """
    heads, narrow, wide = module.num_heads, module.dim_head_qk, module.dim_head_v
    pools = isinstance(module.pool, nn.AvgPool2d)
    if not pools and not isinstance(module.pool, nn.Identity):
        raise InputError(f"{name}.pool is a {type(module.pool).__name__} in the place of a mean; leave the module out of `where`")
    theirs = {
        "block_size": block,
        "halo_size": halo,
        "dim_head": narrow,
        "qk_ratio": narrow / wide,
        "value_ratio": 1.0,
        "qkv_bias": bias,
        "out_proj": False,
        "avg_down": pools,
        "scale_pos_embed": bool(module.scale_pos_embed),
    }
    defaults = {one.name: one.default for one in fields(config)}
    said = {key: getattr(config, key) for key in theirs if key in ("block_size", "halo_size") or getattr(config, key) != defaults[key]}
    if other := [f"{key}={value} and not {theirs[key]}" for key, value in said.items() if value != theirs[key]]:
        raise InputError(
            f"{name} is {type(module).__name__} of blocks of {block} with a halo of {halo}, and the configuration has {', '.join(other)}: give "
            f"HaloAttention2d.Config(block_size={block}, halo_size={halo}, {_OF_TIMM}), which keeps its function"
        )
    weight = next(module.parameters())
    made = HaloInPlace(
        channels,
        heads * wide,
        heads,
        block,
        halo,
        2 if pools else step,
        dim_head=narrow,
        qkv_bias=bias,
        avg_down=pools,
        scale_pos_embed=theirs["scale_pos_embed"],
        mask_border=config.mask_border,
        strided_offsets=config.strided_offsets,
        tight_tables=config.tight_tables,
        path=config.path,
        device="meta",
        dtype=weight.dtype,
    )
    made.pool = module.pool
    return made


def _tables(made: HaloInPlace, module: Any, transfer: Transfer, name: str) -> tuple[Copied, ...]:
    """The host's own, or where ours are shorter, copies of the rows that are read, which are the last ones."""
    copied = []
    for key in ("height_rel", "width_rel"):
        host = getattr(module.pos_embed, key)
        rows = len(getattr(made.pos_embed, key))
        if found := [*hangs_on(module.pos_embed, "timm"), *(hangs_on_parameter(host) if rows < len(host) else [])]:
            raise InputError(f"{name}.pos_embed carries {' and '.join(found)}, which the conversion would lose; take it off first")
        if rows == len(host):
            setattr(made.pos_embed, key, host)
            transfer.kept.append(f"pos_embed.{key}")
            continue
        with torch.no_grad():
            setattr(made.pos_embed, key, nn.Parameter(host[-rows:].clone(), requires_grad=host.requires_grad))
        transfer.mapped.append(f"pos_embed.{key}")
        copied.append(Copied(made.pos_embed, key, slice(None), host, slice(len(host) - rows, None)))
    return tuple(copied)


def _adopted(made: HaloInPlace, module: Any, transfer: Transfer, layers: list[Any], copied: tuple[Copied, ...]) -> Adopted:
    wide = made.num_heads * made.dim_head_v
    place = Place(
        dim=made.channels,
        dim_out=wide,
        num_heads=made.num_heads,
        head_dim=made.dim_head_v,
        qkv=Apart(*layers),
        proj=NoMap(wide, layers[0]),
        windows=None,
        checked=True,
        copied=copied,
    )
    return Adopted(made, place, transfer)


register_on_maps("halo_2d", "timm.layers.halo_attn.HaloAttn", _adopt_halo)
register_on_maps("halo_2d", "timm.layers.bottleneck_attn.BottleneckAttn", _adopt_bottleneck)
