"""Halo attention: a block of pixels meets its neighborhood, the block dilated by a halo, with relative positions.

Paper      Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021 (arXiv 2103.12731).
Official   none; timm's ``HaloAttn`` and lucidrains/halonet-pytorch are the references
Formula    y_ij = Σ_ab softmax_ab(s · q_ijᵀ k_ab + q_ijᵀ (r^h_{a−i} + r^w_{b−j})) v_ab, over the (b + 2h)² pixels ab around the block of ij
Differs    Any height and width: blocks that overhang the map are padded, masked and cropped. The references refuse them.
           Pixels outside the map get no weight; in timm they are zero keys that take a share (``mask_border=False``).
           With stride s the relative offset of query i is y − h − s·i; timm forgets the s (``rel_stride=1``).
           Tables hold only the 2b + 2h − s offsets that occur; longer ones (timm, halonet-pytorch) have dead rows at their start.
Note       Block and halo make the mechanism equivariant to shifts by whole blocks, not by pixels. Block 1 is the pixel-centered window of SASA.
Status     outputs and gradients equal to timm's HaloAttn and to halonet-pytorch 0.0.5

Shapes     B batch, H heads, (height, width) of the map, D head width, Dv value width, P keys without a place,
           (n, m) rows and columns of blocks, (i, j) query in a block, (y, x) pixel in a window, Q = i·j queries a block, K = y·x (+ P) keys
"""

from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import unknown
from .._fx import leaf
from ._halo_blocks import (
    Axis,
    Extra,
    absent_keys,
    cut_axes,
    cut_axis,
    from_blocks,
    masked_logit,
    pad,
    position_logits,
    to_blocks,
    to_windows,
    with_global,
    without_keys,
)
from ._halo_folded import folded
from ._halo_tiled import tiled
from ._precision import lowered, whole_precision, wide, wide_dtype
from ._transforms import known, transformed

__all__ = ["HaloPath", "check_path", "halo_attention", "halo_attention_map", "halo_attention_reference", "halo_macs"]

HaloPath = Literal["auto", "explicit", "folded", "tiled", "flex"]
"""``explicit`` holds the map in memory, ``folded`` hides the positions in the queries of a fused kernel, ``tiled`` keeps a few blocks in the CPU's cache.

``flex`` compiles a kernel for a GPU through ``flex_attention``. It has not been measured, so ``auto`` never takes it."""

_FOLDING_PAYS = 2**23
"""Entries of a sample's map from which memory matters more than the wider heads of the folded form."""


@leaf
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
        path: all paths compute the same; ``"auto"`` takes the fastest of those that were measured. ``"flex"`` is for GPUs: there ``flex_attention`` is
            compiled at the first call, and anew for other sizes. On the CPU it runs as PyTorch's plain form, not fused and without gradients, for checking.

    Returns:
        ``(B, H, ⌈height / stride⌉, ⌈width / stride⌉, Dv)``; zeros for a query whose every key is masked.

    Raises:
        ValueError: sizes that do not fit each other; an unknown path; ``"tiled"`` with global keys, a mask or dropout;
            ``"flex"`` with dropout, on the meta device, on the CPU where gradients are wanted, or in float64 elsewhere.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows, columns = cut_axes(q, k, rel_height, rel_width, block_size, halo_size, stride, mask_border, rel_stride)
    check_path(path)
    extra = (None if global_k is None else lowered(global_k), None if global_v is None else lowered(global_v), mask, dropout_p)
    q, k, v = lowered(q), lowered(k), lowered(v)
    if path == "auto":
        path = _fastest(q, k, v, rows, columns, global_k, mask, dropout_p)
    with whole_precision(q):
        tables = _tables(q, rel_height, rel_width, scale if scale_rel else 1.0)
        return from_blocks(_PATHS[path](to_blocks(q, rows, columns), k, v, *tables, rows, columns, scale, extra), rows, columns)


@leaf
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
    rows, columns = cut_axes(q, k, rel_height, rel_width, block_size, halo_size, stride, mask_border, rel_stride)
    with whole_precision(q):
        tables = _tables(q, rel_height, rel_width, scale if scale_rel else 1.0)
        attention = _weights(to_blocks(q, rows, columns), k, *tables, rows, columns, scale, global_k, mask)
    y, x = rows.pixels(q.device), columns.pixels(q.device)
    inside = rows.inside(q.device)[:, None, :, None] & columns.inside(q.device)[None, :, None, :]
    num_pixels, num_global = rows.size * columns.size, 0 if global_k is None else global_k.shape[-2]
    # pixels outside the map all go to one column too many
    place = torch.where(inside, y[:, None, :, None] * columns.size + x[None, :, None, :], num_pixels).flatten(2)
    place = torch.cat([place, num_pixels + 1 + torch.arange(num_global, device=q.device).expand(*place.shape[:2], -1)], dim=-1)
    full = attention.new_zeros(*attention.shape[:-1], num_pixels + 1 + num_global)
    full = full.scatter_add(-1, place[:, :, None].expand(attention.shape), attention)
    full = torch.cat([full[..., num_pixels + 1 :], full[..., :num_pixels]], dim=-1)
    return from_blocks(full.unflatten(-2, (rows.queries, columns.queries)), rows, columns).flatten(2, 3).to(q.dtype)


@leaf
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
    center = [len(table) - block_size - halo_size for table in (rel_height, rel_width)]
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
            relative = rel_scale * (query @ (rel_height[y - i + center[0]] + rel_width[x - j + center[1]]))
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


def check_path(path: str) -> None:
    """Raises ``InputError`` for a path that does not exist."""
    if path not in ("auto", *_PATHS):
        raise unknown("path of halo attention", path, ("auto", *_PATHS))


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
    rows, columns = (cut_axis(size, block_size, halo_size, stride, mask_border, stride, 0) for size in (height, width))
    blocks, queries = rows.blocks * columns.blocks, rows.queries * columns.queries
    keys = rows.window * columns.window + num_global
    return num_heads * blocks * queries * (keys * (dim_head + dim_head_v) + (rows.window + columns.window) * dim_head)


# -- in the open, on all blocks at once: (B, H, n, m, i, j, D) -> (B, H, n, m, i, j, Dv) --


def _tables(q: Tensor, rel_height: Tensor, rel_width: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The relative tables as logits need them."""
    rel_height, rel_width = (table.to(wide_dtype(q)) for table in (rel_height, rel_width))
    return (rel_height, rel_width) if scale == 1 else (rel_height * scale, rel_width * scale)


def _weights(
    q: Tensor,
    k: Tensor,
    rel_height: Tensor,
    rel_width: Tensor,
    rows: Axis,
    columns: Axis,
    scale: float,
    global_k: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The map of every block, (B, H, n, m, Q, K), in float32 at least."""
    num_global = 0 if global_k is None else global_k.shape[-2]
    q = wide(q)
    by_row, by_column = position_logits(q, rel_height, rel_width, rows, columns)
    bias = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2).flatten(-3, -2)
    keys = with_global(to_windows(pad(wide(k), rows, columns), rows, columns), None if global_k is None else wide(global_k))
    logits = (scale * q.flatten(-3, -2)) @ keys.transpose(-2, -1) + F.pad(bias, (0, num_global))
    absent = absent_keys(mask, num_global, rows, columns)
    if absent is not None:
        logits = logits.masked_fill(absent.unsqueeze(-2), masked_logit(logits.dtype))
    attention = logits.softmax(-1)
    return attention if absent is None else attention.masked_fill(without_keys(absent, num_global, rows, columns), 0.0)


def _explicit(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis, scale: float, extra: Extra) -> Tensor:
    global_k, global_v, mask, dropout_p = extra
    attention = _weights(q, k, rel_height, rel_width, rows, columns, scale, global_k, mask).to(v.dtype)
    if dropout_p:
        attention = F.dropout(attention, dropout_p)
    out = attention @ with_global(to_windows(pad(v, rows, columns), rows, columns), global_v)
    return out.unflatten(-2, q.shape[4:6])


def _fastest(q: Tensor, k: Tensor, v: Tensor, rows: Axis, columns: Axis, global_k: Tensor | None, mask: Tensor | None, dropout_p: float) -> HaloPath:
    plain = global_k is None and mask is None and not dropout_p and q.dtype == k.dtype == v.dtype
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed()
    if plain and q.device.type == "cpu" and not traced:
        return "tiled"
    # of one sample, so that the choice does not depend on the batch; on the meta device costs are counted, and they are those of the formula
    entries = q.shape[1] * rows.blocks * columns.blocks * rows.queries * columns.queries * rows.window * columns.window
    # a graph for all sizes must not hold the map of the largest
    return "explicit" if q.is_meta or known(entries < _FOLDING_PAYS) else "folded"


def _flex(*args: Any) -> Tensor:
    # imported where it is used: PyTorch's flex_attention takes longer to import than all of this library
    from ._halo_flex import flex

    return flex(*args)


_PATHS: dict[HaloPath, Callable[..., Tensor]] = {"explicit": _explicit, "folded": folded, "tiled": tiled, "flex": _flex}
