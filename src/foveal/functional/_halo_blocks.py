"""What the paths of halo attention share: how the map is cut into blocks and windows, the logits of positions, and masks of keys.

Shapes     as in :mod:`foveal.functional.halo`
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .._errors import InputError
from ._transforms import known, transformed

__all__ = [
    "Axis",
    "Extra",
    "absent_keys",
    "border_logits",
    "cut_axes",
    "cut_axis",
    "from_blocks",
    "masked_logit",
    "off_map",
    "pad",
    "position_logits",
    "relative_logits",
    "to_blocks",
    "to_windows",
    "with_global",
    "without_keys",
]

Extra = tuple[Tensor | None, Tensor | None, Tensor | None, float]
"""Keys and values without a place, the mask, the probability of dropout."""


class Axis(NamedTuple):
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

    def seen(self, block: int) -> slice:
        """Places in the window of a block that a query there may see: with the border masked, those on the map."""
        if not self.mask_border:
            return slice(0, self.window)
        start = block * self.step - self.halo
        return slice(max(0, -start), min(self.window, self.size - start))

    def offsets(self, device: torch.device) -> Tensor:
        """Row of the relative table for every query and place in the window, (queries, window)."""
        return torch.arange(self.window, device=device) - self.rel_stride * torch.arange(self.queries, device=device)[:, None] + self.rel_start

    @property
    def overhang(self) -> int:
        """Pixels that the last window reaches beyond the map."""
        return (self.blocks - 1) * self.step + self.window - self.halo - self.size


def cut_axis(size: int, block_size: int, halo_size: int, stride: int, mask_border: bool, rel_stride: int, rel_rows: int) -> Axis:
    # in whole numbers, in which the compiler keeps sizes that it does not know yet
    num_queries = size if stride == 1 else 1 + (size - 1) // stride
    rel_start = rel_rows - block_size - 2 * halo_size
    if mask_border and known(size <= block_size):
        # one block sees the whole axis: leave out what would be masked
        return Axis(size, num_queries, 1, size, num_queries, size, 0, rel_stride, rel_start + halo_size, mask_border)
    blocks: Any = 1 + (size - 1) // block_size
    if not known(size < 2**62):
        # of a size that is left open: one block alone would be another graph
        blocks = torch.sym_max(blocks, 2)
    return Axis(size, num_queries, blocks, block_size, block_size // stride, block_size + 2 * halo_size, halo_size, rel_stride, rel_start, mask_border)


def cut_axes(
    q: Tensor,
    k: Tensor,
    rel_height: Tensor,
    rel_width: Tensor,
    block_size: int,
    halo_size: int,
    stride: int,
    mask_border: bool,
    rel_stride: int | None,
) -> tuple[Axis, Axis]:
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
    step = stride if rel_stride is None else rel_stride
    sizes, lengths = k.shape[2:4], (rel_height.shape[0], rel_width.shape[0])
    if torch.jit.is_tracing():
        # which hands them out as tensors; how a map is cut is fixed in what it writes
        sizes, lengths = map(int, sizes), map(int, lengths)  # type: ignore[assignment]
    rows, columns = (cut_axis(size, block_size, halo_size, stride, mask_border, step, length) for size, length in zip(sizes, lengths, strict=True))
    if q.shape[2:4] != (rows.num_queries, columns.num_queries):
        raise InputError(
            f"a map of {rows.size}×{columns.size} keys with stride {stride} has {rows.num_queries}×{columns.num_queries} queries, "
            f"got {q.shape[2]}×{q.shape[3]}; take q from x[..., ::{stride}, ::{stride}]"
        )
    return rows, columns


def to_blocks(q: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """(B, H, height, width, D) -> (B, H, n, m, i, j, D)."""
    below, right = rows.blocks * rows.queries - rows.num_queries, columns.blocks * columns.queries - columns.num_queries
    if not (known(below == 0) and known(right == 0)):
        q = F.pad(q, (0, 0, 0, right, 0, below))
    if _left_open(rows, columns):
        # whether one size divides another, and whether strides let axes be joined, a size that may change cannot answer
        return q.unfold(2, rows.queries, rows.queries).unfold(3, columns.queries, columns.queries).movedim(-3, -1).contiguous()
    return q.unflatten(2, (rows.blocks, rows.queries)).unflatten(4, (columns.blocks, columns.queries)).transpose(3, 4)


def from_blocks(blocks: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """(B, H, n, m, i, j, D) -> (B, H, height, width, D)."""
    out = _joined(_joined(blocks.transpose(3, 4).contiguous(), 2), 3)
    if _left_open(rows, columns):
        # a slice asks whether it ends in time
        kept = (torch.arange(axis.num_queries, device=out.device) for axis in (rows, columns))
        return out.index_select(2, next(kept)).index_select(3, next(kept))
    return out[:, :, : rows.num_queries, : columns.num_queries]


def _joined(x: Tensor, dim: int) -> Tensor:
    """An axis and the one behind it as one."""
    return x.squeeze(dim + 1) if x.shape[dim + 1] == 1 else x.flatten(dim, dim + 1)


def _left_open(rows: Axis, columns: Axis) -> bool:
    """Whether this is traced for maps of any size. No map has as many pixels, but one of a size that is not known may have."""
    return not known(rows.size * columns.size < 2**62)


def pad(x: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Zeros around the map (B, H, height, width, D), so that every window lies inside."""
    return F.pad(x, (0, 0, columns.halo, columns.overhang, rows.halo, rows.overhang))


def to_windows(x: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """A padded map (…, height, width, D) -> (…, n, m, K, D)."""
    if torch.jit.is_tracing() or transformed():
        # a strided view is unknown to ONNX's old exporter, and has no backward pass inside vmap
        below, across = ((axis.pixels(x.device) + axis.halo).flatten() for axis in (rows, columns))
        return rearrange(x.index_select(-3, below).index_select(-2, across), "... (n y) (m x) d -> ... n m (y x) d", n=rows.blocks, m=columns.blocks)
    windows = x.unfold(-3, rows.window, rows.step).unfold(-3, columns.window, columns.step)
    return windows.movedim(-3, -1).contiguous().flatten(-3, -2)


def relative_logits(q: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
    """Relative logits of rows, (B, H, n, m, i, j, y), and of columns, (…, x). Their sum, with that of the borders, is the bias of pixel (y, x)."""
    by_row = torch.einsum("bhnmijd,iyd->bhnmijy", q, rel_height[rows.offsets(q.device)])
    by_column = torch.einsum("bhnmijd,jxd->bhnmijx", q, rel_width[columns.offsets(q.device)])
    return by_row, by_column


def border_logits(q: Tensor, rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
    """What lies outside the map does so by its row or by its column: 0 and a logit that gives no weight, (n, y) and (m, x)."""

    def along(axis: Axis) -> Tensor:
        logits = torch.zeros(axis.blocks, axis.window, dtype=q.dtype, device=q.device)
        return logits.masked_fill(~axis.inside(q.device), masked_logit(q.dtype)) if axis.mask_border else logits

    return along(rows), along(columns)


def position_logits(q: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
    """Relative logits and borders, of rows and of columns."""
    by_row, by_column = relative_logits(q, rel_height, rel_width, rows, columns)
    row_border, column_border = border_logits(q, rows, columns)
    return by_row + row_border[:, None, None, None], by_column + column_border[:, None, None]


def masked_logit(dtype: torch.dtype) -> float:
    """A logit that gives no weight and is finite even when two are added: −inf times a zero of a one-hot key would be NaN."""
    return max(torch.finfo(dtype).min / 4, -1e30)


def absent_keys(mask: Tensor | None, num_global: int, rows: Axis, columns: Axis) -> Tensor | None:
    """True where a key of a window is masked, (B, 1, n, m, K). The border is not in it."""
    if mask is None:
        return None
    pixels = rearrange(~mask[:, num_global:], "b (y x) -> b 1 y x 1", y=rows.size)
    windows = to_windows(pad(pixels, rows, columns), rows, columns).squeeze(-1)
    everywhere = ~mask[:, None, None, None, :num_global]
    return torch.cat([windows, everywhere.expand(-1, -1, rows.blocks, columns.blocks, -1)], dim=-1)


def off_map(num_global: int, rows: Axis, columns: Axis, device: torch.device) -> Tensor:
    """True where a place of a window lies outside the map, (n, m, K)."""
    inside = rows.inside(device)[:, None, :, None] & columns.inside(device)[None, :, None, :]
    return ~F.pad(inside.flatten(2), (0, num_global), value=True)


def without_keys(absent: Tensor, num_global: int, rows: Axis, columns: Axis) -> Tensor:
    """True for blocks without any key, (B, 1, n, m, 1, 1)."""
    if rows.mask_border:
        absent = absent | off_map(num_global, rows, columns, absent.device)
    return absent.all(-1)[..., None, None]


def with_global(windows: Tensor, everywhere: Tensor | None) -> Tensor:
    if everywhere is None:
        return windows
    return torch.cat([windows, everywhere[:, :, None, None].expand(-1, -1, *windows.shape[2:4], -1, -1)], dim=-2)
