"""Halo attention on the CPU, a few blocks at a time, forward and backward: their map never leaves the cache.

Shapes     as in :mod:`foveal.functional.halo`; G blocks of a tile
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from math import prod
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from .._errors import InputError
from ._halo_blocks import Axis, Extra, border_logits, pad, to_windows
from ._halo_skew import skewed
from ._precision import wide
from ._transforms import transformed

__all__ = ["tiled"]

_TILE = 2**20
"""Entries of the map that are worked on at once: small enough for the cache, large enough for threads; measured by ``benchmarks/halo.py``."""


def tiled(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis, scale: float, extra: Extra) -> Tensor:
    if extra[0] is not None or extra[2] is not None or extra[3]:
        raise InputError('the tiled path has no global keys, mask or dropout; use path="auto"')
    dtype = v.dtype
    q, k, v = wide(q), wide(k), wide(v)
    queries = q.flatten(0, 1).contiguous()
    single = queries.flatten(0, 2)
    by_row = skewed(single, rel_height, rows, "rows").unflatten(0, queries.shape[:3])
    by_column = skewed(single, rel_width, columns, "columns").unflatten(0, queries.shape[:3])
    # a masked border is left out of every tile, and need not be there
    keys, values = ((part if rows.mask_border else pad(part, rows, columns)).flatten(0, 1) for part in (k, v))
    attend = _plain_tiles if transformed() else _Tiles.apply
    out = attend(queries, keys, values, by_row, by_column, rows, columns, scale)
    return out.unflatten(0, q.shape[:2]).to(dtype)


class _Tiles(torch.autograd.Function):
    """Explicit attention a few blocks at a time, the map recomputed in the backward pass: it never leaves the cache.

    Maps are held transposed, keys over queries, (G, K, Q): then the relative logits of a row or column are added along contiguous queries.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, rows: Axis, columns: Axis, scale: float) -> Tensor:
        # laid out as the map, so that taking the blocks apart is free
        out = q.new_empty(len(q), rows.blocks, rows.queries, columns.blocks, columns.queries, v.shape[-1]).transpose(2, 3)
        tiles = _Tiling(q, rows, columns)
        room, room_k, room_v = tiles.room(q, tiles.num_queries), tiles.room(k, k.shape[-1]), tiles.room(v, v.shape[-1])
        for tile in tiles:
            attention = tiles.attention(tile, room, tiles.queries(tile, q), tiles.keys(tile, k, room_k), by_row, by_column, scale)
            # a product with few columns is slow, one with few rows is not: heads are narrow
            tiles.store(tile, out, torch.bmm(tiles.keys(tile, v, room_v).mT, attention))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5], output)
        ctx.settings = inputs[5:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # once: gradient checkpointing unpacks what was saved a single time
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            # somebody wants second derivatives: differentiate the plain form, of aliases, since one input may be made from another
            inputs = [value.view_as(value) for value in saved[:5]]
            wanted = [value for value, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(_plain_tiles(*inputs, *ctx.settings), wanted, grads[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:5]), None, None, None
        return *_tiles_backward(saved, grads[0], *ctx.settings), None, None, None


def _plain_tiles(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, rows: Axis, columns: Axis, scale: float) -> Tensor:
    """What :class:`_Tiles` computes, in one piece."""
    if rows.mask_border:
        row_border, column_border = border_logits(q, rows, columns)
        by_row, by_column = by_row + row_border[:, None, :, None], by_column + column_border[..., None]
        k, v = pad(k, rows, columns), pad(v, rows, columns)
    bias = (by_row.unsqueeze(-2) + by_column.unsqueeze(-3)).flatten(-3, -2)
    attention = (scale * q.flatten(-3, -2) @ to_windows(k, rows, columns).mT + bias.mT).softmax(-1)
    return (attention @ to_windows(v, rows, columns)).unflatten(-2, q.shape[3:5])


def _tiles_backward(saved: tuple[Tensor, ...], grad_out: Tensor, rows: Axis, columns: Axis, scale: float) -> tuple[Tensor, ...]:
    q, k, v, by_row, by_column, out = saved
    grad_q, grad_row, grad_column = torch.empty_like(q), torch.zeros_like(by_row), torch.zeros_like(by_column)
    tiles = _Tiling(q, rows, columns)
    room, room_grad = tiles.room(q, tiles.num_queries), tiles.room(q, tiles.num_queries)
    room_k, room_v, room_grad_k, room_grad_v = (tiles.room(part, part.shape[-1]) for part in (k, v, k, v))
    grad_k, grad_v = tiles.margin(k), tiles.margin(v)
    # Σ_keys attention · its gradient, by the output instead of the map
    shared = (out * grad_out).sum(-1, keepdim=True)
    for tile in tiles:
        queries, cotangent = tiles.queries(tile, q), tiles.queries(tile, grad_out)
        keys, values = tiles.keys(tile, k, room_k), tiles.keys(tile, v, room_v)
        attention = tiles.attention(tile, room, queries, keys, by_row, by_column, scale)
        tiles.add_keys(tile, grad_v, torch.bmm(attention, _columns_first(cotangent), out=_part(room_grad_v, values.shape)))
        grad = torch.baddbmm(tiles.queries(tile, shared).mT, values, cotangent.mT, beta=-1, out=_part(room_grad, attention.shape))
        grad.mul_(attention)
        tiles.store(tile, grad_q, torch.bmm(keys.mT, grad).mul_(scale))
        tiles.add_keys(tile, grad_k, torch.bmm(grad, _columns_first(queries), out=_part(room_grad_k, keys.shape)).mul_(scale))
        grad = grad.view(*grad_q[tile.blocks].shape[:2], tile.height, tile.width, tiles.num_queries)
        torch.sum(grad, 3, out=grad_row[tile.blocks][:, :, tile.y])
        torch.sum(grad, 2, out=grad_column[tile.blocks][:, :, tile.x])
    return grad_q, tiles.crop(grad_k, k), tiles.crop(grad_v, v), grad_row, grad_column


class _Tile(NamedTuple):
    """Some blocks of one row of blocks, of some heads, that see the same places of their windows."""

    heads: slice
    row: int
    columns: slice
    y: slice
    x: slice

    @property
    def blocks(self) -> tuple[slice, int, slice]:
        """Index into (B·H, n, m, …)."""
        return self[:3]

    @property
    def num_keys(self) -> int:
        """Of all its blocks."""
        return (self.heads.stop - self.heads.start) * (self.columns.stop - self.columns.start) * self.height * self.width

    @property
    def height(self) -> int:
        return self.y.stop - self.y.start

    @property
    def width(self) -> int:
        return self.x.stop - self.x.start


class _Tiling:
    """The tiles that cover all blocks."""

    def __init__(self, q: Tensor, rows: Axis, columns: Axis) -> None:
        self.rows, self.columns, self.heads, self.num_queries = rows, columns, q.shape[0], rows.queries * columns.queries
        self.tiles = list(self._cut())

    def __iter__(self) -> Iterator[_Tile]:
        return iter(self.tiles)

    def room(self, like: Tensor, width: int) -> Tensor:
        """For so many numbers a key of the largest tile. Taken once: memory that goes back to the system between tiles comes back page by page."""
        return like.new_empty(width * max((tile.num_keys for tile in self.tiles), default=0))

    def queries(self, tile: _Tile, x: Tensor) -> Tensor:
        """(B·H, n, m, i, j, D) -> (G, Q, D)."""
        # strided, it would be multiplied matrix by matrix
        return rearrange(x[tile.blocks], "h m i j d -> (h m) (i j) d").contiguous()

    def store(self, tile: _Tile, x: Tensor, part: Tensor) -> None:
        """(G, D, Q) into (B·H, n, m, i, j, D)."""
        place = x[tile.blocks]
        place.copy_(part.mT.unflatten(0, place.shape[:2]).unflatten(2, place.shape[2:4]))

    def keys(self, tile: _Tile, x: Tensor, room: Tensor) -> Tensor:
        """(B·H, height, width, D) -> (G, K, D)."""
        top, left = self._corner(tile)
        right = left + (tile.columns.stop - tile.columns.start - 1) * self.columns.step + tile.width
        windows = x[tile.heads, top : top + tile.height, left:right].unfold(2, tile.width, self.columns.step)
        windows = rearrange(windows, "h y m d x -> h m y x d")
        return _part(room, windows.shape).copy_(windows).flatten(2, 3).flatten(0, 1)

    def attention(self, tile: _Tile, room: Tensor, queries: Tensor, keys: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
        """(G, K, Q)."""
        attention = _part(room, (len(queries), keys.shape[1], queries.shape[1]))
        by_row, by_column = by_row[tile.blocks][:, :, tile.y].flatten(0, 1), by_column[tile.blocks][:, :, tile.x].flatten(0, 1)
        torch.add(by_row.unsqueeze(2), by_column.unsqueeze(1), out=attention.unflatten(1, (tile.height, tile.width)))
        torch.baddbmm(attention, keys, queries.mT, alpha=scale, out=attention)
        return torch.softmax(attention, 1, out=attention)

    def margin(self, x: Tensor) -> Tensor:
        """Zeros for the sum of what windows give back to a map, with room for a last window of whole steps."""
        return x.new_zeros(*x.shape[:2], x.shape[2] + self.columns.step, x.shape[3])

    def add_keys(self, tile: _Tile, total: Tensor, windows: Tensor) -> None:
        """The transpose of :meth:`keys`. Windows overlap, so they are added in strips of one step, which do not."""
        top, left = self._corner(tile)
        blocks, step = tile.columns.stop - tile.columns.start, self.columns.step
        windows = rearrange(windows, "(h m) (y x) d -> h y m x d", m=blocks, y=tile.height)
        for start in range(0, tile.width, step):
            strip = windows[..., start : start + step, :]
            part = total[tile.heads, top : top + tile.height, left + start : left + start + blocks * step]
            part.unflatten(2, (blocks, step))[..., : strip.shape[-2], :].add_(strip)

    def crop(self, total: Tensor, like: Tensor) -> Tensor:
        return total[:, :, : like.shape[2]]

    def _corner(self, tile: _Tile) -> tuple[int, int]:
        """Row and column, on the map that keys are cut from, of the first place that is seen. Without a masked border that map is padded."""
        row_halo, column_halo = (axis.halo if axis.mask_border else 0 for axis in (self.rows, self.columns))
        return tile.row * self.rows.step - row_halo + tile.y.start, tile.columns.start * self.columns.step - column_halo + tile.x.start

    def _cut(self) -> Iterator[_Tile]:
        for row in range(self.rows.blocks):
            y = self.rows.seen(row)
            for x, group in groupby(range(self.columns.blocks), self.columns.seen):
                alike = list(group)
                entries = (y.stop - y.start) * (x.stop - x.start) * self.num_queries
                wide = min(len(alike), max(1, _TILE // entries))
                tall = max(1, min(self.heads, _TILE // (entries * wide)))
                for left, head in product(range(alike[0], alike[-1] + 1, wide), range(0, self.heads, tall)):
                    columns = slice(left, min(left + wide, alike[-1] + 1))
                    yield _Tile(slice(head, min(head + tall, self.heads)), row, columns, y, x)


def _columns_first(x: Tensor) -> Tensor:
    """The same (G, Q, D), laid out as (G, D, Q): faster as the narrow right side of a product."""
    return x.mT.contiguous().mT


def _part(room: Tensor, shape: Sequence[int]) -> Tensor:
    return room[: prod(shape)].view(shape)
