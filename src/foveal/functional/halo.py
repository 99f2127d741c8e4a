"""Halo attention: a block of pixels meets its neighbourhood, the block dilated by a halo, with relative positions.

Paper      Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021 (arXiv 2103.12731).
Official   none; timm's ``HaloAttn`` and lucidrains/halonet-pytorch are the references
Formula    y_ij = Σ_ab softmax_ab(s · q_ijᵀ k_ab + q_ijᵀ (r^h_{a−i} + r^w_{b−j})) v_ab, over the (b + 2h)² pixels ab around the block of ij
Differs    Any height and width: blocks that overhang the map are padded, masked and cropped. The references refuse them.
           Pixels outside the map get no weight; in timm they are zero keys that take a share (``mask_border=False``).
           With stride s the relative offset of query i is y − h − s·i; timm forgets the s (``rel_stride=1``).
           Tables hold only the 2b + 2h − s offsets that occur; longer ones (timm, halonet-pytorch) have dead rows at their start.
Note       Block and halo make the mechanism equivariant to shifts by whole blocks, not by pixels. Block 1 is the pixel-centred window of SASA.
Status     outputs and gradients equal to timm's HaloAttn and to halonet-pytorch 0.0.5

Shapes     B batch, H heads, (height, width) of the map, D head width, Dv value width, P keys without a place,
           (n, m) rows and columns of blocks, (i, j) query in a block, (y, x) pixel in a window, Q = i·j queries a block, K = y·x (+ P) keys
"""

from collections.abc import Callable, Iterator
from itertools import product
from math import ceil
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .._errors import InputError, unknown

__all__ = ["HaloPath", "halo_attention", "halo_attention_map", "halo_attention_reference", "halo_macs"]

HaloPath = Literal["auto", "explicit", "folded", "tiled"]
"""``explicit`` holds the map in memory, ``folded`` hides the positions in the queries of a fused kernel, ``tiled`` keeps a few blocks in the CPU's cache."""

_FOLDING_PAYS = 2**23
"""Entries of a sample's map from which memory matters more than the wider heads of the folded form."""

_TILE = 2**21
"""Entries of the map that are worked on at once: small enough for the cache, large enough for threads; measured by ``benchmarks/halo.py``."""


def halo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rel_height: Tensor,
    rel_width: Tensor,
    block_size: int,
    halo_size: int,
    stride: int = 1,
    global_k: Tensor | None = None,
    global_v: Tensor | None = None,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    scale_rel: bool = False,
    mask_border: bool = True,
    rel_stride: int | None = None,
    path: HaloPath = "auto",
) -> Tensor:
    """Mix each block of pixels with the window around it, in time linear in the number of pixels.

    Args:
        q: queries of every ``stride``-th row and column, ``(B, H, ⌈height / stride⌉, ⌈width / stride⌉, D)``.
        k: keys, ``(B, H, height, width, D)``.
        v: values, ``(B, H, height, width, Dv)``.
        rel_height: one row for each vertical offset, ``(2b + 2h − stride, D)``, shared by heads: from −(b − stride + h) to b − 1 + h.
            A longer table, as timm's with ``2(b + 2h) − 1`` rows, is read from its end.
        rel_width: the same for horizontal offsets.
        block_size: b, side of a block in pixels; ``stride`` divides it.
        halo_size: h, how far a block sees beyond itself.
        stride: step between queries.
        global_k: keys that every query sees besides its window, without a position, ``(B, H, P, D)``.
        global_v: their values, ``(B, H, P, Dv)``.
        mask: bool, ``(B, P + height · width)``, True where a key takes part: first the global ones, then the map row by row.
        dropout_p: dropout on the map; applies whenever it is not 0.
        scale: factor on the logits of content; ``D ** -0.5`` if None.
        scale_rel: the relative logits are scaled too, as in halonet-pytorch.
        mask_border: pixels outside the map get no weight. False makes them keys and values of zeros, as in timm.
        rel_stride: step between queries as the tables see it; ``stride`` if None. timm's strided attention has 1.
        path: all paths compute the same; ``"auto"`` takes the fastest.

    Returns:
        ``(B, H, ⌈height / stride⌉, ⌈width / stride⌉, Dv)``; zeros for a query whose every key is masked.

    Raises:
        ValueError: sizes that do not fit each other; an unknown path, or ``"tiled"`` with global keys, a mask, dropout or half precision.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, columns = _axes(q, k, rel_height, rel_width, block_size, halo_size, stride, mask_border, rel_stride)
    if path not in ("auto", *_PATHS):
        raise unknown("path of halo attention", path, ("auto", *_PATHS))
    if path == "auto":
        path = _fastest(q, k, v, rows, columns, global_k, mask, dropout_p)
    if scale_rel:
        rel_height, rel_width = rel_height * scale, rel_width * scale
    extra = (global_k, global_v, mask, dropout_p)
    blocks = _PATHS[path](_blocks(q, rows, columns), k, v, rel_height.to(q.dtype), rel_width.to(q.dtype), rows, columns, scale, extra)
    return _unblock(blocks, rows, columns)


def halo_attention_map(
    q: Tensor,
    k: Tensor,
    *,
    rel_height: Tensor,
    rel_width: Tensor,
    block_size: int,
    halo_size: int,
    stride: int = 1,
    global_k: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    scale_rel: bool = False,
    mask_border: bool = True,
    rel_stride: int | None = None,
) -> Tensor:
    """How much each query takes from each key, ``(B, H, Nq, P + height · width)``, global keys first; zero outside the window. For looking only.

    Rows sum to one, or to zero where every key is masked. Without a masked border they sum to less: the rest went to pixels outside the map.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, columns = _axes(q, k, rel_height, rel_width, block_size, halo_size, stride, mask_border, rel_stride)
    if scale_rel:
        rel_height, rel_width = rel_height * scale, rel_width * scale
    attention = _weights(_blocks(q, rows, columns), k, rel_height.to(q.dtype), rel_width.to(q.dtype), rows, columns, scale, global_k, mask)
    y, x = rows.pixels(q.device), columns.pixels(q.device)
    inside = rows.inside(q.device)[:, None, :, None] & columns.inside(q.device)[None, :, None, :]
    num_pixels, num_global = rows.size * columns.size, 0 if global_k is None else global_k.shape[-2]
    # pixels outside the map all go to one column too many
    place = torch.where(inside, y[:, None, :, None] * columns.size + x[None, :, None, :], num_pixels).flatten(2)
    place = torch.cat([place, num_pixels + 1 + torch.arange(num_global, device=q.device).expand(*place.shape[:2], -1)], dim=-1)
    full = attention.new_zeros(*attention.shape[:-1], num_pixels + 1 + num_global)
    full = full.scatter_add(-1, place[:, :, None].expand(attention.shape), attention)
    full = torch.cat([full[..., num_pixels + 1 :], full[..., :num_pixels]], dim=-1)
    return _unblock(full, rows, columns).flatten(2, 3)


def halo_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rel_height: Tensor,
    rel_width: Tensor,
    block_size: int,
    halo_size: int,
    stride: int = 1,
    global_k: Tensor | None = None,
    global_v: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    scale_rel: bool = False,
    mask_border: bool = True,
    rel_stride: int | None = None,
) -> Tensor:
    """The formula of the file's head, query by query and key by key: slow, to be checked by eye."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rel_scale = scale if scale_rel else 1.0
    step = stride if rel_stride is None else rel_stride
    batch, heads, query_rows, query_columns = q.shape[:4]
    height, width = k.shape[2:4]
    num_global = 0 if global_k is None else global_k.shape[2]
    centre = [len(table) - block_size - halo_size for table in (rel_height, rel_width)]
    out = q.new_zeros(*q.shape[:-1], v.shape[-1])
    for b, n, row, column in product(range(batch), range(heads), range(query_rows), range(query_columns)):
        query = q[b, n, row, column]
        # position of the query's block, and of the query in it as the tables see it
        top, left = (at * stride // block_size * block_size for at in (row, column))
        i, j = (at % (block_size // stride) * step for at in (row, column))
        logits, values = [], []
        for g in range(num_global):
            if mask is None or mask[b, g]:
                logits.append(scale * (query @ global_k[b, n, g]))  # type: ignore[index]
                values.append(global_v[b, n, g])  # type: ignore[index]
        for y, x in product(range(-halo_size, block_size + halo_size), repeat=2):
            relative = rel_scale * (query @ (rel_height[y - i + centre[0]] + rel_width[x - j + centre[1]]))
            at_row, at_column = top + y, left + x
            if 0 <= at_row < height and 0 <= at_column < width:
                if mask is None or mask[b, num_global + at_row * width + at_column]:
                    logits.append(scale * (query @ k[b, n, at_row, at_column]) + relative)
                    values.append(v[b, n, at_row, at_column])
            elif not mask_border:
                logits.append(relative)
                values.append(torch.zeros_like(v[b, n, 0, 0]))
        if logits:
            out[b, n, row, column] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return out


def halo_macs(
    height: int,
    width: int,
    *,
    num_heads: int,
    dim_head: int,
    dim_head_v: int,
    block_size: int,
    halo_size: int,
    stride: int = 1,
    num_global: int = 0,
    mask_border: bool = True,
) -> int:
    """Multiply-adds of one sample, the padded pixels included; projections are not."""
    rows, columns = (_axis(size, block_size, halo_size, stride, mask_border, stride, 0) for size in (height, width))
    blocks, queries = rows.blocks * columns.blocks, rows.queries * columns.queries
    keys = rows.window * columns.window + num_global
    return num_heads * blocks * queries * (keys * (dim_head + dim_head_v) + (rows.window + columns.window) * dim_head)


# -- blocks and windows --------------------------------------------------------------------------------------------------------------------------


class _Axis(NamedTuple):
    """How one axis of the map is cut: ``blocks`` of ``step`` pixels, each with ``queries`` queries and a ``window`` that begins ``halo`` pixels early."""

    size: int
    num_queries: int
    blocks: int
    step: int
    queries: int
    window: int
    halo: int
    rel_stride: int
    rel_start: int
    mask_border: bool

    def pixels(self, device: torch.device) -> Tensor:
        """Position on the map of every place in every window, (blocks, window)."""
        return torch.arange(self.blocks, device=device)[:, None] * self.step + torch.arange(self.window, device=device) - self.halo

    def inside(self, device: torch.device) -> Tensor:
        pixels = self.pixels(device)
        return (pixels >= 0) & (pixels < self.size)

    def offsets(self, device: torch.device) -> Tensor:
        """Row of the relative table for every query and place in the window, (queries, window)."""
        return torch.arange(self.window, device=device) - self.rel_stride * torch.arange(self.queries, device=device)[:, None] + self.rel_start

    @property
    def overhang(self) -> int:
        """Pixels that the last window reaches beyond the map."""
        return (self.blocks - 1) * self.step + self.window - self.halo - self.size


def _axis(size: int, block_size: int, halo_size: int, stride: int, mask_border: bool, rel_stride: int, rel_rows: int) -> _Axis:
    num_queries = ceil(size / stride)
    rel_start = rel_rows - block_size - 2 * halo_size
    if size <= block_size and mask_border:
        # one block sees the whole axis: leave out what would be masked
        return _Axis(size, num_queries, 1, size, num_queries, size, 0, rel_stride, rel_start + halo_size, mask_border)
    blocks = ceil(size / block_size)
    return _Axis(size, num_queries, blocks, block_size, block_size // stride, block_size + 2 * halo_size, halo_size, rel_stride, rel_start, mask_border)


def _axes(
    q: Tensor,
    k: Tensor,
    rel_height: Tensor,
    rel_width: Tensor,
    block_size: int,
    halo_size: int,
    stride: int,
    mask_border: bool,
    rel_stride: int | None,
) -> tuple[_Axis, _Axis]:
    if block_size < 1 or halo_size < 0 or stride < 1 or block_size % stride:
        raise InputError(
            f"halo attention expects block_size >= 1, halo_size >= 0 and a stride that divides block_size, got {block_size}, {halo_size} and {stride}"
        )
    needed = 2 * block_size + 2 * halo_size - stride
    if rel_height.shape[0] < needed or rel_width.shape[0] < needed:
        raise InputError(
            f"relative tables need {needed} rows for block_size={block_size}, halo_size={halo_size} and stride={stride}, "
            f"got {rel_height.shape[0]} and {rel_width.shape[0]}"
        )
    rows, columns = (
        _axis(size, block_size, halo_size, stride, mask_border, stride if rel_stride is None else rel_stride, table.shape[0])
        for size, table in zip(k.shape[2:4], (rel_height, rel_width), strict=True)
    )
    if q.shape[2:4] != (rows.num_queries, columns.num_queries):
        raise InputError(
            f"a map of {rows.size}×{columns.size} keys with stride {stride} has {rows.num_queries}×{columns.num_queries} queries, "
            f"got {q.shape[2]}×{q.shape[3]}; take q from x[..., ::{stride}, ::{stride}]"
        )
    return rows, columns


def _blocks(q: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """(B, H, height, width, D) -> (B, H, n, m, i, j, D)."""
    below, right = rows.blocks * rows.queries - rows.num_queries, columns.blocks * columns.queries - columns.num_queries
    if below or right:
        q = F.pad(q, (0, 0, 0, right, 0, below))
    return rearrange(q, "b h (n i) (m j) d -> b h n m i j d", n=rows.blocks, m=columns.blocks)


def _unblock(blocks: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """(B, H, n, m, Q, D) -> (B, H, height, width, D)."""
    out = rearrange(blocks, "b h n m (i j) d -> b h (n i) (m j) d", i=rows.queries)
    return out[:, :, : rows.num_queries, : columns.num_queries]


def _pad(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Zeros around the map (B, H, height, width, D), so that every window lies inside."""
    return F.pad(x, (0, 0, columns.halo, columns.overhang, rows.halo, rows.overhang))


def _windows(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """A padded map (…, height, width, D) -> (…, n, m, K, D)."""
    windows = x.unfold(-3, rows.window, rows.step).unfold(-3, columns.window, columns.step)
    return rearrange(windows, "... n m d y x -> ... n m (y x) d")


def _relative(q: Tensor, rel_height: Tensor, rel_width: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """Relative logits of rows, (B, H, n, m, i, j, y), and of columns, (…, x). Their sum, with that of the borders, is the bias of pixel (y, x)."""
    by_row = torch.einsum("bhnmijd,iyd->bhnmijy", q, rel_height[rows.offsets(q.device)])
    by_column = torch.einsum("bhnmijd,jxd->bhnmijx", q, rel_width[columns.offsets(q.device)])
    return by_row, by_column


def _borders(q: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """What lies outside the map does so by its row or by its column: 0 and a logit that gives no weight, (n, y) and (m, x)."""
    by_row, by_column = (
        torch.zeros(axis.blocks, axis.window, dtype=q.dtype, device=q.device).masked_fill(~axis.inside(q.device) & axis.mask_border, _never(q.dtype))
        for axis in (rows, columns)
    )
    return by_row, by_column


def _biases(q: Tensor, rel_height: Tensor, rel_width: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """Relative logits and borders, of rows and of columns."""
    by_row, by_column = _relative(q, rel_height, rel_width, rows, columns)
    row_border, column_border = _borders(q, rows, columns)
    return by_row + row_border[:, None, None, None], by_column + column_border[:, None, None]


def _never(dtype: torch.dtype) -> float:
    """A logit that gives no weight and is finite even when two are added: −inf times a zero of a one-hot key would be NaN."""
    return max(torch.finfo(dtype).min / 4, -1e9)


def _absent(mask: Tensor | None, num_global: int, rows: _Axis, columns: _Axis) -> Tensor | None:
    """True where a key of a window is masked, (B, 1, n, m, K). The border is not in it."""
    if mask is None:
        return None
    pixels = rearrange(~mask[:, num_global:], "b (y x) -> b 1 y x 1", y=rows.size)
    windows = _windows(_pad(pixels, rows, columns), rows, columns).squeeze(-1)
    everywhere = ~mask[:, None, None, None, :num_global]
    return torch.cat([windows, everywhere.expand(-1, -1, rows.blocks, columns.blocks, -1)], dim=-1)


def _nobody(absent: Tensor, num_global: int, rows: _Axis, columns: _Axis) -> Tensor:
    """True for blocks without any key, (B, 1, n, m, 1, 1)."""
    if rows.mask_border:
        inside = rows.inside(absent.device)[:, None, :, None] & columns.inside(absent.device)[None, :, None, :]
        absent = absent | ~F.pad(inside.flatten(2), (0, num_global), value=True)
    return absent.all(-1)[..., None, None]


def _with_global(windows: Tensor, everywhere: Tensor | None) -> Tensor:
    if everywhere is None:
        return windows
    return torch.cat([windows, everywhere[:, :, None, None].expand(-1, -1, *windows.shape[2:4], -1, -1)], dim=-2)


# -- the paths: (B, H, n, m, i, j, D) -> (B, H, n, m, Q, Dv) ---------------------------------------------------------------------------------------

_Extra = tuple[Tensor | None, Tensor | None, Tensor | None, float]


def _weights(
    q: Tensor,
    k: Tensor,
    rel_height: Tensor,
    rel_width: Tensor,
    rows: _Axis,
    columns: _Axis,
    scale: float,
    global_k: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The map of every block, (B, H, n, m, Q, K)."""
    num_global = 0 if global_k is None else global_k.shape[-2]
    by_row, by_column = _biases(q, rel_height, rel_width, rows, columns)
    bias = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2).flatten(-3, -2)
    keys = _with_global(_windows(_pad(k, rows, columns), rows, columns), global_k)
    logits = (scale * q.flatten(-3, -2)) @ keys.mT + F.pad(bias, (0, num_global))
    absent = _absent(mask, num_global, rows, columns)
    if absent is not None:
        logits = logits.masked_fill(absent.unsqueeze(-2), _never(logits.dtype))
    # sums of hundreds of half-precision exponentials are kept in float32
    accumulate = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    attention = logits.softmax(-1, dtype=accumulate).to(q.dtype)
    return attention if absent is None else attention.masked_fill(_nobody(absent, num_global, rows, columns), 0.0)


def _explicit(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: _Axis, columns: _Axis, scale: float, extra: _Extra) -> Tensor:
    global_k, global_v, mask, dropout_p = extra
    attention = _weights(q, k, rel_height, rel_width, rows, columns, scale, global_k, mask).to(v.dtype)
    if dropout_p:
        attention = F.dropout(attention, dropout_p)
    return attention @ _with_global(_windows(_pad(v, rows, columns), rows, columns), global_v)


def _folded(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: _Axis, columns: _Axis, scale: float, extra: _Extra) -> Tensor:
    """Queries [s·q, by_row, by_column] on keys [k, onehot(y), onehot(x)] have the biased logits as their plain product."""
    global_k, global_v, mask, dropout_p = extra
    num_global = 0 if global_k is None else global_k.shape[-2]
    absent = _absent(mask, num_global, rows, columns)
    queries = [scale * q, *_biases(q, rel_height, rel_width, rows, columns)]
    keys = _with_global(_windows(_pad(k, rows, columns), rows, columns), global_k)
    y = torch.eye(rows.window, dtype=q.dtype, device=q.device).repeat_interleave(columns.window, 0)
    x = torch.eye(columns.window, dtype=q.dtype, device=q.device).repeat(rows.window, 1)
    places = [F.pad(torch.cat([y, x], dim=-1), (0, 0, 0, num_global)).expand(*keys.shape[:-1], -1)]
    if absent is not None:
        queries.append(torch.ones_like(q[..., :1]))
        places.append((_never(q.dtype) * absent.unsqueeze(-1).to(q.dtype)).expand(*keys.shape[:-1], -1))
    values = _with_global(_windows(_pad(v, rows, columns), rows, columns), global_v)
    # fused kernels want queries, keys and values of one width, a multiple of eight
    width = 8 * ceil(max(sum(part.shape[-1] for part in queries), v.shape[-1]) / 8)
    wide_q, wide_k, wide_v = (
        F.pad(part, (0, width - part.shape[-1])).flatten(0, 1).flatten(1, 2)
        for part in (torch.cat(queries, dim=-1).flatten(-3, -2), torch.cat([keys, *places], dim=-1), values)
    )
    out = F.scaled_dot_product_attention(wide_q, wide_k, wide_v, dropout_p=dropout_p, scale=1.0)[..., : v.shape[-1]]
    out = out.unflatten(1, (rows.blocks, columns.blocks)).unflatten(0, q.shape[:2])
    return out if absent is None else out.masked_fill(_nobody(absent, num_global, rows, columns), 0.0)


def _tiled(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: _Axis, columns: _Axis, scale: float, extra: _Extra) -> Tensor:
    if extra[0] is not None or extra[2] is not None or extra[3] or q.dtype not in (torch.float32, torch.float64):
        raise InputError('the tiled path has no global keys, mask, dropout or half precision; use path="auto"')
    relative = _relative(q, rel_height, rel_width, rows, columns)
    by_row, by_column = (rearrange(bias, "b h n m i j t -> (b h) n m t (i j)").contiguous() for bias in relative)
    # on the transposed form, where the border is constant along the inner axis, this is several times cheaper
    row_border, column_border = _borders(q, rows, columns)
    by_row, by_column = by_row + row_border[:, None, :, None], by_column + column_border[..., None]
    queries = rearrange(q, "b h n m i j d -> (b h) n m (i j) d")
    keys, values = (_pad(part, rows, columns).flatten(0, 1) for part in (k, v))
    out = _Tiles.apply(queries, keys, values, by_row, by_column, rows, columns, scale)
    return out.unflatten(0, q.shape[:2])


class _Tiles(torch.autograd.Function):
    """Explicit attention a few blocks at a time, the map recomputed in the backward pass: it never leaves the cache.

    Maps are held transposed, keys over queries, (G, K, Q): then the relative logits of a row or column are added along contiguous queries.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, rows: _Axis, columns: _Axis, scale: float) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        tiles = _Tiling(q, rows, columns)
        for tile in tiles:
            attention = tiles.attention(tile, tiles.queries(tile, q), tiles.keys(tile, k), by_row, by_column, scale)
            out[tile.blocks] = torch.bmm(attention.mT, tiles.keys(tile, v)).view(out[tile.blocks].shape)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5], output)
        ctx.settings = inputs[5:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors[:5]
        if torch.is_grad_enabled():
            # somebody wants second derivatives: differentiate the plain form
            wanted = [value for value, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(_plain_tiles(*inputs, *ctx.settings), wanted, grads[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:5]), None, None, None
        return *_tiles_backward(ctx.saved_tensors, grads[0], *ctx.settings), None, None, None


def _plain_tiles(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, rows: _Axis, columns: _Axis, scale: float) -> Tensor:
    """What :class:`_Tiles` computes, in one piece."""
    bias = (by_row.unsqueeze(-2) + by_column.unsqueeze(-3)).flatten(-3, -2)
    return (scale * q @ _windows(k, rows, columns).mT + bias.mT).softmax(-1) @ _windows(v, rows, columns)


def _tiles_backward(saved: tuple[Tensor, ...], grad_out: Tensor, rows: _Axis, columns: _Axis, scale: float) -> tuple[Tensor, ...]:
    q, k, v, by_row, by_column, out = saved
    grad_q, grad_row, grad_column = (torch.empty_like(x) for x in (q, by_row, by_column))
    tiles = _Tiling(q, rows, columns)
    grad_k, grad_v = tiles.margin(k), tiles.margin(v)
    # Σ_keys attention · its gradient, by the output instead of the map
    shared = (out * grad_out).sum(-1, keepdim=True)
    for tile in tiles:
        queries, keys, cotangent = tiles.queries(tile, q), tiles.keys(tile, k), tiles.queries(tile, grad_out)
        attention = tiles.attention(tile, queries, keys, by_row, by_column, scale)
        tiles.add_keys(tile, grad_v, torch.bmm(attention, cotangent))
        grad = tiles.second[: len(queries)]
        torch.baddbmm(tiles.queries(tile, shared).mT, tiles.keys(tile, v), cotangent.mT, beta=-1, out=grad)
        grad.mul_(attention)
        grad_q[tile.blocks] = torch.bmm(grad.mT, keys).mul_(scale).view(grad_q[tile.blocks].shape)
        tiles.add_keys(tile, grad_k, torch.bmm(grad, queries).mul_(scale))
        grad = grad.unflatten(1, (rows.window, columns.window))
        grad_row[tile.blocks] = grad.sum(2).view(grad_row[tile.blocks].shape)
        grad_column[tile.blocks] = grad.sum(1).view(grad_column[tile.blocks].shape)
    return grad_q, tiles.crop(grad_k, k), tiles.crop(grad_v, v), grad_row, grad_column


class _Tile(NamedTuple):
    """Some blocks of one row of blocks, of some heads."""

    heads: slice
    row: int
    columns: slice

    @property
    def blocks(self) -> tuple[slice, int, slice]:
        """Index into (B·H, n, m, …)."""
        return self


class _Tiling:
    """The tiles that cover all blocks, and two buffers of the size of a tile's map."""

    def __init__(self, q: Tensor, rows: _Axis, columns: _Axis) -> None:
        entries = rows.window * columns.window * q.shape[-2]
        self.rows, self.columns, self.heads = rows, columns, q.shape[0]
        self.wide = min(columns.blocks, max(1, _TILE // entries))
        self.tall = max(1, min(self.heads, _TILE // (entries * self.wide)))
        self.first, self.second = (q.new_empty(self.tall * self.wide, rows.window * columns.window, q.shape[-2]) for _ in range(2))

    def __iter__(self) -> Iterator[_Tile]:
        for head, row, column in product(range(0, self.heads, self.tall), range(self.rows.blocks), range(0, self.columns.blocks, self.wide)):
            yield _Tile(slice(head, min(head + self.tall, self.heads)), row, slice(column, min(column + self.wide, self.columns.blocks)))

    def queries(self, tile: _Tile, x: Tensor) -> Tensor:
        """(B·H, n, m, Q, D) -> (G, Q, D)."""
        return x[tile.blocks].flatten(0, 1)

    def keys(self, tile: _Tile, x: Tensor) -> Tensor:
        """(B·H, height, width, D), padded -> (G, K, D)."""
        rows, columns = self._span(tile)
        windows = x[tile.heads, rows, columns].unfold(2, self.columns.window, self.columns.step)
        return rearrange(windows, "h y m d x -> (h m) (y x) d")

    def attention(self, tile: _Tile, queries: Tensor, keys: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
        """(G, K, Q), in the first buffer."""
        attention = self.first[: len(queries)]
        by_row, by_column = by_row[tile.blocks].flatten(0, 1), by_column[tile.blocks].flatten(0, 1)
        torch.add(by_row.unsqueeze(2), by_column.unsqueeze(1), out=attention.unflatten(1, (self.rows.window, self.columns.window)))
        torch.baddbmm(attention, keys, queries.mT, alpha=scale, out=attention)
        return torch.softmax(attention, 1, out=attention)

    def margin(self, x: Tensor) -> Tensor:
        """Zeros for the sum of what windows give back to a padded map, with room for a last window of whole steps."""
        whole_steps = self.columns.step * ceil(self.columns.window / self.columns.step)
        return x.new_zeros(*x.shape[:2], (self.columns.blocks - 1) * self.columns.step + whole_steps, x.shape[-1])

    def add_keys(self, tile: _Tile, total: Tensor, windows: Tensor) -> None:
        """The transpose of :meth:`keys`. Windows overlap, so they are added in strips of one step, which do not."""
        rows, _ = self._span(tile)
        heads, blocks, step = tile.heads.stop - tile.heads.start, tile.columns.stop - tile.columns.start, self.columns.step
        windows = rearrange(windows, "(h m) (y x) d -> h y m x d", h=heads, y=self.rows.window)
        for start in range(0, self.columns.window, step):
            strip = windows[..., start : start + step, :]
            left = tile.columns.start * step + start
            total[tile.heads, rows, left : left + blocks * step].unflatten(2, (blocks, step))[..., : strip.shape[-2], :].add_(strip)

    def crop(self, total: Tensor, like: Tensor) -> Tensor:
        return total[:, :, : like.shape[2]]

    def _span(self, tile: _Tile) -> tuple[slice, slice]:
        """Rows and columns of a padded map that a tile's windows cover."""
        top, left = tile.row * self.rows.step, tile.columns.start * self.columns.step
        return slice(top, top + self.rows.window), slice(left, (tile.columns.stop - 1) * self.columns.step + self.columns.window)


def _fastest(q: Tensor, k: Tensor, v: Tensor, rows: _Axis, columns: _Axis, global_k: Tensor | None, mask: Tensor | None, dropout_p: float) -> HaloPath:
    plain = global_k is None and mask is None and not dropout_p and q.dtype == k.dtype == v.dtype and q.dtype in (torch.float32, torch.float64)
    if plain and q.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu"):
        return "tiled"
    # of one sample, so that the choice does not depend on the batch; on the meta device costs are counted, and they are those of the formula
    entries = q.shape[1] * rows.blocks * columns.blocks * rows.queries * columns.queries * rows.window * columns.window
    return "folded" if entries >= _FOLDING_PAYS and not q.is_meta else "explicit"


_PATHS: dict[HaloPath, Callable[..., Tensor]] = {"explicit": _explicit, "folded": _folded, "tiled": _tiled}
