"""Linear attention mechanism (LAM): every pair of tokens meets with weight 1 + cos(q, k), read through a small summary of all values.

Paper      Li et al., "Linear Attention Mechanism: An Efficient Attention for Semantic Segmentation", 2020 (arXiv 2007.14902).
Official   lironui/Linear-Attention-Mechanism
Formula    q̂ = q / ‖q‖, k̂ = k / ‖k‖;  Y_i = (v̄ + q̂_i G) / (1 + q̂_i · k̄), the means v̄ of v, k̄ of k̂ and G of k̂ᵀ v over the keys
           channels: tokens are the C channels, q = k = v = x of length N, so Y = A X with A the row-normalized 1 + X̂ X̂ᵀ
Differs    Means in place of the official sums, in float32 at least: N = 65536 overflows the official divisor in float16, and the branch is silently 0.
           A zero vector has no direction and counts as one at right angles to all. Officially one such pixel makes the whole map NaN.
           The divisor is kept ≥ 1e-4. Keys can be masked. ``eps`` reproduces the official 1e-6 on the sum of k̂.
           The official channel operator is not its formula: it normalizes over channels, divides by N for C and swaps the roles of Q and V.
           Ours is the formula; ``legacy=True`` is theirs.
Note       What is convex: weights 1 + cos ≥ 0 divided by their sum, so for ``eps=0`` an output is a convex combination of the values (for channels, of
           the channels), up to the floor of the divisor, below which rows sum to less than one. A weight is at most 2 / (Nk (1 + q̂ · k̄)), so the map is
           nearly uniform: the mean of all values and a correction of rank ≤ D. What one position holds arrives diluted by N, whatever it learns.
           What is not convex: the legacy channel operator (a constant input does not come back), ``eps ≠ 0``, and a residual around it.
           No position is known to it: permuted tokens give permuted outputs.
Status     outputs and gradients equal to the official modules'

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width; C channels of length N
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import InputError
from .._fx import leaf
from ._precision import whole_precision, wide, wide_dtype
from ._summary import for_each_query, key_count, key_mask, piece_size, pieces, scaled

__all__ = [
    "channel_linear_attention",
    "channel_linear_attention_map",
    "channel_linear_attention_reference",
    "linear_attention",
    "linear_attention_map",
    "linear_attention_reference",
]

_LEAST_DIVISOR = 1e-4
"""The divisor vanishes only where every key points away from the query, and the numerator with it."""
_NO_LENGTH = 1e-15
"""Shorter vectors have squares that float32 cannot hold."""


@leaf
def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    eps: float = 0.0,
    chunk: int | None = None,
) -> Tensor:
    """Average the values with weights ``1 + scale · cos(q, k)``: time linear in positions, nothing ``Nq × Nk`` is formed.

    Args:
        q: queries, ``(B, H, Nq, D)``. Only their direction counts.
        k: keys, ``(B, H, Nk, D)``. Only their direction counts.
        v: values, ``(B, H, Nk, Dv)``.
        mask: of keys, bool (True takes part) or float (0 takes part, -inf does not), broadcastable to ``(B, H, 1, Nk)``.
        dropout_p: share of what a query takes from each row of the summary that is zeroed; applies whenever it is not 0.
        scale: factor on the cosine, from -1 to 1 so that weights are not negative. 1 if None, as in the paper.
        eps: added to each component of the sum of k̂. 0 is the paper; the official code has 1e-6.
        chunk: positions that are read at a time; if None all, or without gradients on the CPU as many as its cache holds. The result is the same. Working
            memory is that of one piece, unless gradients are kept.

    Returns:
        ``(B, H, Nq, Dv)`` in the dtype of ``v``; zeros where every key is masked.

    Raises:
        ValueError: a mask per query or of other floats than 0 and -inf; a scale beyond ±1; ``chunk`` below 1.
    """
    keep, scale = key_mask("linear attention", mask, k, floats=False), _check_scale(scale)
    with whole_precision(v):
        *outer, _, width = k.shape
        sum_k = k.new_full((*outer, 1, width), eps, dtype=wide_dtype(k))
        sum_v = v.new_zeros((*outer, 1, v.shape[-1]), dtype=wide_dtype(v))
        summary = v.new_zeros((*outer, width, v.shape[-1]), dtype=wide_dtype(v))
        for at in pieces(piece_size(chunk, v), k.shape[-2]):
            direction, values = _direction(wide(k[..., at, :])), wide(v[..., at, :])
            if keep is not None:
                absent = ~keep[..., at, :]
                direction, values = direction.masked_fill(absent, 0.0), values.masked_fill(absent, 0.0)
            sum_k = sum_k + direction.sum(dim=-2, keepdim=True)
            sum_v = sum_v + values.sum(dim=-2, keepdim=True)
            summary = summary + direction.transpose(-2, -1) @ values
        count = key_count(keep, k)
        mean_k, mean_v, summary = sum_k / count, sum_v / count, summary / count

        def mixed(some: Tensor) -> Tensor:
            direction = scaled(_direction(wide(some)), scale)
            divisor = (1 + direction @ mean_k.transpose(-2, -1)).clamp_min(_LEAST_DIVISOR)
            if dropout_p:
                # the divisor keeps its value, so that the mean over draws is the output without dropout
                sums = F.dropout(torch.ones_like(divisor), dropout_p) * mean_v + F.dropout(direction, dropout_p) @ summary
            else:
                sums = mean_v + direction @ summary
            return (sums / divisor).to(v.dtype)

        return for_each_query(mixed, q, piece_size(chunk, q))


@leaf
def linear_attention_map(q: Tensor, k: Tensor, *, mask: Tensor | None = None, scale: float | None = None, eps: float = 0.0) -> Tensor:
    """The map that is implied, ``(B, H, Nq, Nk)``; applied to the values it gives the output. Quadratic in N, for looking only.

    Entries are not negative. Rows sum to one with ``eps=0``, except where the floor of the divisor holds, and to zero where every key is masked.
    """
    keep, scale = key_mask("linear attention", mask, k, floats=False), _check_scale(scale)
    with whole_precision(q):
        to, of = scaled(_direction(wide(q)), scale), _direction(wide(k))
        # rounding may put an opposite pair a little below zero
        weights, count = (1 + to @ of.transpose(-2, -1)).clamp_min(0.0), key_count(keep, k)
        if keep is not None:
            weights = weights.masked_fill(~keep.transpose(-2, -1), 0.0)
        divisor = weights.sum(dim=-1, keepdim=True) + eps * to.sum(dim=-1, keepdim=True)
        return (weights / divisor.clamp_min(_LEAST_DIVISOR * count)).to(q.dtype)


@leaf
def linear_attention_reference(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None, eps: float = 0.0) -> Tensor:
    """The paper's sums with the map in memory; vectors of length 0 and divisors near 0 are left to their fate."""
    to, of = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    present = torch.ones_like(k[..., :1]) if mask is None else mask.transpose(-2, -1).to(k)
    weights = (1 + (1.0 if scale is None else scale) * to @ of.transpose(-2, -1)) * present.transpose(-2, -1)
    extra = eps * (1.0 if scale is None else scale) * to.sum(dim=-1, keepdim=True)
    return (weights @ v) / (weights.sum(dim=-1, keepdim=True) + extra)


@leaf
def channel_linear_attention(x: Tensor, *, legacy: bool = False, eps: float = 0.0) -> Tensor:
    """Average the channels with weights ``1 + cos`` between them. It has no weights of its own, and is linear in N as it stands.

    Args:
        x: channels, ``(B, H, C, N)``; channels of different heads do not meet.
        legacy: the operator of the official code, which is not the paper's, see the head of this file.
        eps: added to each component of the legacy sum over channels; the official code has 1e-6.

    Returns:
        ``(B, H, C, N)``.

    Raises:
        ValueError: ``eps`` without ``legacy``.
    """
    if eps and not legacy:
        raise InputError(f"eps belongs to the legacy channel operator; the divisor of the correct one is never below 1; got eps={eps}, expected 0")
    with whole_precision(x):
        if legacy:
            return _legacy_channels(wide(x), eps).to(x.dtype)
        return (_channel_map(wide(x)) @ wide(x)).to(x.dtype)


@leaf
def channel_linear_attention_map(x: Tensor) -> Tensor:
    """How much each channel takes from each, ``(B, H, C, C)``, rows sum to one. The legacy operator is no map applied to the channels and has none."""
    with whole_precision(x):
        return _channel_map(wide(x)).to(x.dtype)


@leaf
def channel_linear_attention_reference(x: Tensor) -> Tensor:
    """The position variant's reference with the channels as tokens."""
    return linear_attention_reference(x, x, x)


def _direction(x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    # x / inf rather than x / tiny: the value is 0 either way, and so is the gradient this way
    return x / length.masked_fill(length < _NO_LENGTH, float("inf"))


def _channel_map(x: Tensor) -> Tensor:
    direction = _direction(x)
    weights = 1 + direction @ direction.transpose(-2, -1)
    return weights / weights.sum(dim=-1, keepdim=True)


def _legacy_channels(x: Tensor, eps: float) -> Tensor:
    direction = _direction(x.transpose(-2, -1)).transpose(-2, -1)
    divisor = x.shape[-1] + (direction * (direction.sum(dim=-2, keepdim=True) + eps)).sum(dim=-1, keepdim=True)
    return (x.sum(dim=-2, keepdim=True) + (x @ direction.transpose(-2, -1)) @ direction) / divisor


def _check_scale(scale: float | None) -> float:
    if scale is None:
        return 1.0
    if not -1 <= scale <= 1:
        raise InputError(f"scale of linear attention must lie between -1 and 1, or its weights 1 + scale · cos would be negative; got {scale}")
    return scale
