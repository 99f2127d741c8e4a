"""Halo attention through PyTorch's ``flex_attention``, which compiles a kernel of its own for it. For GPUs: the map is never held, and heads stay narrow.

Windows lie end to end in one sequence of keys, as blocks do in that of queries. So a tile of queries sees one stretch of keys, and keys that are seen by all
behind it. Neighboring blocks in the place of windows would need no copies, but cover nine blocks where a window has the area of three.

Shapes     as in :mod:`foveal.functional.halo`; G = n·m blocks, L = G·Q queries and S = G·K + P keys in a sequence
"""

import copy
from collections.abc import Callable
from functools import cache, lru_cache
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .._errors import InputError
from ._halo_blocks import Axis, Extra, absent_keys, pad, relative_logits, to_windows
from ._precision import wide

__all__ = ["flex"]

_TILE = 128
"""Queries and keys of a tile that is worked on or left out. The kernels' own tiles must divide it, on any GPU; PyTorch's default."""

_NARROWEST = 16
"""Width of a head below which there is no kernel."""

_PROGRAMS = 256
"""Each size, block and dtype is compiled apart. Networks have more than the eight after which ``torch.compile`` gives up."""

_EVERYONE, _NOBODY = -1, -2
"""Owners of keys that are no block."""


def flex(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis, scale: float, extra: Extra) -> Tensor:
    global_k, global_v, mask, dropout_p = extra
    if dropout_p:
        raise InputError(f'flex_attention has no dropout on the map, got dropout_p={dropout_p}; set it (attn_drop of a layer) to 0, or path="auto"')
    given = (q, k, v, rel_height, rel_width, global_k, global_v)
    _check(q.device.type, q.dtype, torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given))
    num_global = 0 if global_k is None else global_k.shape[-2]
    places = (_places if torch.compiler.is_compiling() else _kept_places)(rows, columns, num_global, q.device)
    by_row, by_column = (
        # keys without a place read the zeros behind the window
        F.pad(logits.flatten(2, 5), (0, min(num_global, 1)))
        for logits in relative_logits(wide(q), rel_height, rel_width, rows, columns)
    )
    owner = _owners(places.owner, mask, num_global, rows, columns).expand(len(q), -1)
    block, y, x = places.block, places.y, places.x

    # each table is read once: gradients reach captured tensors only so
    def with_positions(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + by_row[b, h, query, y[key]] + by_column[b, h, query, x[key]]

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (owner[b, key] == block[query]) | (owner[b, key] == _EVERYONE)

    tiles = copy.copy(places.tiles)
    tiles.mask_mod = sees
    keys, values = (_sequence(part, everywhere, rows, columns) for part, everywhere in ((k, global_k), (v, global_v)))
    out = _attend(_wide_enough(q.flatten(2, 5)), _wide_enough(keys), _wide_enough(values), with_positions, tiles, scale)
    return out[..., : v.shape[-1]].unflatten(2, q.shape[2:6])


class _Places(NamedTuple):
    """Where the tokens of the two sequences belong, and which tiles of their map are not empty."""

    block: Tensor
    """Of every query, (L)."""
    owner: Tensor
    """The block that sees a key, (S): one, everyone or nobody."""
    y: Tensor
    """Row of a key in its window, (S); one behind the window where it has no place."""
    x: Tensor
    tiles: BlockMask


def _places(rows: Axis, columns: Axis, num_global: int, device: torch.device) -> _Places:
    num_blocks, num_queries, num_keys = rows.blocks * columns.blocks, rows.queries * columns.queries, rows.window * columns.window
    block, owner, place = (torch.arange(n, dtype=torch.int32, device=device) for n in (num_blocks, num_blocks, num_keys))
    owner = owner[:, None].expand(-1, num_keys)
    if rows.mask_border:
        inside = rows.inside(device)[:, None, :, None] & columns.inside(device)[None, :, None, :]
        owner = owner.masked_fill(~inside.flatten(2).flatten(0, 1), _NOBODY)
    y, x = (along.repeat(num_blocks) for along in (place // columns.window, place % columns.window))
    return _Places(
        block.repeat_interleave(num_queries),
        F.pad(owner.flatten(), (0, num_global), value=_EVERYONE),
        F.pad(y, (0, num_global), value=rows.window),
        F.pad(x, (0, num_global), value=columns.window),
        _tiles(num_blocks, num_queries, num_keys, num_global, device),
    )


@lru_cache(maxsize=128)
def _kept_places(rows: Axis, columns: Axis, num_global: int, device: torch.device) -> _Places:
    # tensors made in inference mode could not be used in training later
    with torch.inference_mode(False):
        return _places(rows, columns, num_global, device)


def _tiles(num_blocks: int, num_queries: int, num_keys: int, num_global: int, device: torch.device) -> BlockMask:
    """Tiles that are not empty. ``create_block_mask`` finds the same (borders aside) from all L × S pairs; windows exist so as not to have them in memory."""
    num_l, num_s = num_blocks * num_queries, num_blocks * num_keys + num_global
    start = _TILE * torch.arange(ceil(num_l / _TILE), device=device)
    end = (start + _TILE).clamp(max=num_l)
    first = start // num_queries * num_keys // _TILE
    last = (((end - 1) // num_queries + 1) * num_keys - 1) // _TILE
    tile = torch.arange(ceil(num_s / _TILE), device=device)
    seen = (tile >= first[:, None]) & (tile <= last[:, None])
    if num_global:
        seen = seen | (tile >= num_blocks * num_keys // _TILE)
    seen = seen.to(torch.int32)[None, None]
    order = seen.argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return BlockMask.from_kv_blocks(seen.sum(-1, dtype=torch.int32), order, BLOCK_SIZE=_TILE, seq_lengths=(num_l, num_s))


def _owners(owner: Tensor, mask: Tensor | None, num_global: int, rows: Axis, columns: Axis) -> Tensor:
    """Of keys in the sequence, (1 or B, S), those masked owned by nobody."""
    absent = absent_keys(mask, 0 if mask is None else num_global, rows, columns)
    if mask is None or absent is None:
        return owner[None]
    windows = absent[..., : rows.window * columns.window].flatten(1)
    return owner.masked_fill(torch.cat([windows, ~mask[:, :num_global]], dim=1), _NOBODY)


def _sequence(x: Tensor, everywhere: Tensor | None, rows: Axis, columns: Axis) -> Tensor:
    """A map's windows end to end, (B, H, S, D)."""
    windows = to_windows(pad(x, rows, columns), rows, columns).flatten(2, 4)
    return windows if everywhere is None else torch.cat([windows, everywhere], dim=2)


def _wide_enough(x: Tensor) -> Tensor:
    return F.pad(x, (0, max(0, _NARROWEST - x.shape[-1])))


def _attend(q: Tensor, k: Tensor, v: Tensor, score_mod: Callable[..., Tensor], tiles: BlockMask, scale: float) -> Tensor:
    if torch.compiler.is_compiling():
        return flex_attention(q, k, v, score_mod=score_mod, block_mask=tiles, scale=scale)
    with torch._dynamo.config.patch(recompile_limit=_PROGRAMS):
        if q.device.type == "cpu":
            # for checking: PyTorch's plain form, with all pairs in memory, needs no compiler; unlike the kernels it would round logits in half precision
            return flex_attention(wide(q), wide(k), wide(v), score_mod=score_mod, block_mask=tiles, scale=scale).to(v.dtype)
        return _fused()(q, k, v, score_mod=score_mod, block_mask=tiles, scale=scale)


@cache
def _fused() -> Callable[..., Tensor]:
    # all of it or an error: what the compiler left out would have all pairs in memory
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _check(device: str, dtype: torch.dtype, wants_gradients: bool) -> None:
    if device == "cpu":
        if wants_gradients:
            raise InputError('flex_attention has no gradients on the CPU; use path="auto" there, or torch.no_grad(), or a GPU')
    elif device == "meta":
        raise InputError('flex_attention computes nothing on the meta device; use path="auto" there')
    elif dtype == torch.float64:
        raise InputError('flex_attention has no kernel for float64; use path="auto", or another dtype')
