"""Halo attention by a fused kernel, which knows no positions: they are hidden in wider queries and keys. The map is never held.

Shapes     as in :mod:`foveal.functional.halo`
"""

from math import ceil, frexp

import torch
import torch.nn.functional as F
from torch import Tensor

from ._halo_blocks import Axis, Extra, absent_keys, border_logits, masked_logit, off_map, pad, relative_logits, to_windows, with_global, without_keys
from ._precision import is_half, wide
from ._transforms import fused_attention

__all__ = ["folded"]

_ROOM = {torch.float16: 16.0}
"""How much smaller logits of positions are stored, and how much larger the one-hot keys: a float16 has no room for one beyond 65504."""


def folded(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis, scale: float, extra: Extra) -> Tensor:
    """Queries [s·q, by_row, by_column] on keys [k, onehot(y), onehot(x)] have the biased logits as their plain product.

    In half precision the kernel's logits are float32, so nothing that they are made of may be rounded: of s only the power of two is multiplied into q, the
    rest is left to the kernel; logits of positions are stored as two numbers, what is rounded off beside the rounded.
    """
    global_k, global_v, mask, dropout_p = extra
    num_global = 0 if global_k is None else global_k.shape[-2]
    dtype, half = q.dtype, is_half(q)
    absent = hidden = absent_keys(mask, num_global, rows, columns)
    by_row, by_column = relative_logits(wide(q), rel_height, rel_width, rows, columns)
    if rows.mask_border and dtype == torch.float16:
        # float16 has no number below all logits; a product of two has
        outside = off_map(num_global, rows, columns, q.device)
        hidden = outside[None, None] if absent is None else absent | outside
    elif rows.mask_border:
        row_border, column_border = border_logits(by_row, rows, columns)
        by_row, by_column = by_row + row_border[:, None, None, None], by_column + column_border[:, None, None]
    factor, power = frexp(scale) if half and scale else (1.0, None)
    room = _ROOM.get(dtype, 1.0)
    parts = (_split(logits / (factor * room), dtype) if half else [logits] for logits in (by_row, by_column))
    queries = [q * (scale if power is None else 2.0**power), *(part for both in parts for part in both)]
    keys = with_global(to_windows(pad(k, rows, columns), rows, columns), global_k)
    y = torch.eye(rows.window, dtype=dtype, device=q.device).repeat_interleave(columns.window, 0)
    x = torch.eye(columns.window, dtype=dtype, device=q.device).repeat(rows.window, 1)
    onehots = room * torch.cat([y, y, x, x] if half else [y, x], dim=-1)
    places = [F.pad(onehots, (0, 0, 0, num_global)).expand(*keys.shape[:-1], -1)]
    if hidden is not None:
        most = torch.finfo(dtype).max
        one, none = (most, -most) if dtype == torch.float16 else (1.0, masked_logit(dtype))
        queries.append(torch.full_like(q[..., :1], one))
        places.append((none * hidden.unsqueeze(-1).to(dtype)).expand(*keys.shape[:-1], -1))
    values = with_global(to_windows(pad(v, rows, columns), rows, columns), global_v)
    # fused kernels want queries, keys and values of one width, a multiple of eight
    width = 8 * ceil(max(sum(part.shape[-1] for part in queries), v.shape[-1]) / 8)
    wide_q, wide_k, wide_v = (
        F.pad(part, (0, width - part.shape[-1])).flatten(0, 1).flatten(1, 2)
        for part in (torch.cat(queries, dim=-1).flatten(-3, -2), torch.cat([keys, *places], dim=-1), values)
    )
    out = fused_attention(wide_q, wide_k, wide_v, dropout_p=dropout_p, scale=factor)[..., : v.shape[-1]]
    out = out.unflatten(1, (rows.blocks, columns.blocks)).unflatten(0, q.shape[:2])
    out = out if absent is None else out.masked_fill(without_keys(absent, num_global, rows, columns), 0.0)
    return out.unflatten(-2, q.shape[4:6])


def _split(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two numbers of ``dtype`` whose sum is ``x`` but for the square of a rounding. The gradient passes through the second alone, whole."""
    most = torch.finfo(dtype).max
    high = x.detach().clamp(-most, most).to(dtype)
    return high, (x - high).clamp(-most, most).to(dtype)
