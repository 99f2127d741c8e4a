"""Softmax attention in bfloat16 on CPUs that multiply in it: a block of queries at a time, as two matrix products with the map between them.

PyTorch's fused kernel for the CPU reaches there less than float32 does; two plain products reach more (``python -m benchmarks bfloat16``).
Logits and softmax of a block are float32: the first product takes twice as long as it would in bfloat16, whose logits are too coarse where they are large.
The map is rounded to bfloat16, as in the fused kernel. Without masks, causality, dropout and gradients; those stay with the fused kernel.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

import torch
from torch import Tensor

__all__ = ["blocked_softmax_attention", "blocked_softmax_pays"]

_ROWS = 128
"""Queries of a block, where there are more than twice as many."""
_ENTRIES = 2**18
"""Entries of the map of a block, 1 MB: what stays in a core's second cache."""


def blocked_softmax_pays(q: Tensor) -> bool:
    """Whether :func:`blocked_softmax_attention` was seen to be the faster way for these queries."""
    return (
        q.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch.cpu._is_avx512_bf16_supported()
    )


def blocked_softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """``softmax(scale · q kᵀ) v``, ``(B, H, Nq, Dv)``, with no more than a block of the map in memory."""
    batch = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    # heads lie apart in a projection's output, and a product of such a block would copy it every time
    queries, keys, values = (x.expand(*batch, *x.shape[-2:]).flatten(0, -3).contiguous() for x in (q, k, v))
    queries, keys = queries.float() * (q.shape[-1] ** -0.5 if scale is None else scale), keys.float()
    count, length = queries.shape[:2]
    rows = max(1, length) if length <= 2 * _ROWS else _ROWS
    heads = max(1, _ENTRIES // max(1, rows * keys.shape[1]))
    out = values.new_empty(count, length, v.shape[-1])
    for head in range(0, count, heads):
        some = slice(head, head + heads)
        transposed, gathered = keys[some].transpose(-2, -1), values[some]
        for row in range(0, length, rows):
            block = slice(row, row + rows)
            logits = torch.bmm(queries[some, block], transposed)
            out[some, block] = torch.bmm(torch.softmax(logits, -1, out=logits).to(gathered.dtype), gathered)
    return out.view(*batch, length, v.shape[-1])
