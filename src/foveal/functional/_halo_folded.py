"""Halo attention by a fused kernel, which knows no positions: they are hidden in wider queries and keys. The map is never held.

Shapes     as in :mod:`foveal.functional.halo`
"""

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ._halo_blocks import Axis, Extra, absent_keys, never, pad, position_logits, to_windows, with_global, without_keys
from ._masks import saturated
from ._transforms import fused_attention

__all__ = ["folded"]


def folded(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor, rel_width: Tensor, rows: Axis, columns: Axis, scale: float, extra: Extra) -> Tensor:
    """Queries [s·q, by_row, by_column] on keys [k, onehot(y), onehot(x)] have the biased logits as their plain product."""
    global_k, global_v, mask, dropout_p = extra
    num_global = 0 if global_k is None else global_k.shape[-2]
    absent = absent_keys(mask, num_global, rows, columns)
    queries = [scale * q, *map(saturated, position_logits(q, rel_height, rel_width, rows, columns))]
    keys = with_global(to_windows(pad(k, rows, columns), rows, columns), global_k)
    y = torch.eye(rows.window, dtype=q.dtype, device=q.device).repeat_interleave(columns.window, 0)
    x = torch.eye(columns.window, dtype=q.dtype, device=q.device).repeat(rows.window, 1)
    places = [F.pad(torch.cat([y, x], dim=-1), (0, 0, 0, num_global)).expand(*keys.shape[:-1], -1)]
    if absent is not None:
        queries.append(torch.ones_like(q[..., :1]))
        places.append((never(q.dtype) * absent.unsqueeze(-1).to(q.dtype)).expand(*keys.shape[:-1], -1))
    values = with_global(to_windows(pad(v, rows, columns), rows, columns), global_v)
    # fused kernels want queries, keys and values of one width, a multiple of eight
    width = 8 * ceil(max(sum(part.shape[-1] for part in queries), v.shape[-1]) / 8)
    wide_q, wide_k, wide_v = (
        F.pad(part, (0, width - part.shape[-1])).flatten(0, 1).flatten(1, 2)
        for part in (torch.cat(queries, dim=-1).flatten(-3, -2), torch.cat([keys, *places], dim=-1), values)
    )
    out = fused_attention(wide_q, wide_k, wide_v, dropout_p=dropout_p, scale=1.0)[..., : v.shape[-1]]
    out = out.unflatten(1, (rows.blocks, columns.blocks)).unflatten(0, q.shape[:2])
    out = out if absent is None else out.masked_fill(without_keys(absent, num_global, rows, columns), 0.0)
    return out.unflatten(-2, q.shape[4:6])
