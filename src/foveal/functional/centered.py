"""Centered softmax attention: softmax attention less λ times the mean of the values. A control for everything that subtracts.

Paper      none; ours, as the control that a claim of denoising must beat: the cheapest attention whose weights have both signs.
Official   none
Formula    Y_h = softmax(Q Kᵀ) V − λ_h mean(V) = (A − λ_h / N) V, λ_h a free scalar per head, N the keys that a query may look at
Note       It is denoising attention with shared values whose negative query is zero: a zero query compares alike with all keys, and its map is 1/N.
Status     proven against the formula with the map in memory

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

import torch
from torch import Tensor

from .._fx import leaf
from ._masks import join_causal, share_of_keys
from ._precision import less, whole_precision, wide
from ._transforms import known
from .softmax import softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = ["centered_attention", "centered_attention_maps", "centered_attention_reference"]


@leaf
def centered_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """``softmax(scale · q kᵀ + mask) v − λ · mean(v)``: PyTorch's fused kernel and a mean, so nothing ``Nq × Nk`` is kept unless the mask is one.

    Args:
        q: queries, ``(B, H, Nq, D)``.
        k: keys, ``(B, H, Nk, D)``.
        v: values, ``(B, H, Nk, Dv)``.
        lambdas: strength of the mean per head, ``(H,)``, unconstrained.
        mask: bool (True takes part) or float (added to the logits), broadcastable to ``(B, H, Nq, Nk)``. The mean is over the keys that a query may look at:
            those that are True, or not at -inf or the lowest number of the dtype or of float32. What a float adds to others weighs in the map alone.
        is_causal: a query looks only at keys up to its own position, and the mean is over these.
        dropout_p: share of entries of the softmax map zeroed; the mean loses none.
        scale: factor on the logits; ``D ** -0.5`` if None.

    Returns:
        ``(B, H, Nq, Dv)``; zeros for a query whose every key is masked.
    """
    out = softmax_attention(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    with whole_precision(v):
        mean = _mean(wide(v), mask, is_causal, q.shape[-2])
        return (wide(out) - wide(lambdas).view(-1, 1, 1) * mean).to(out.dtype)


@leaf
def centered_attention_maps(
    q: Tensor, k: Tensor, *, lambdas: Tensor, mask: Tensor | None = None, is_causal: bool = False, scale: float | None = None
) -> dict[str, Tensor]:
    """``positive`` A, ``negative`` 1/N (rows of both sum to one) and ``combined`` = A − λ/N, each ``(B, H, Nq, Nk)``; ``combined @ v`` is the output."""
    positive = softmax_attention_map(q, k, mask=mask, is_causal=is_causal, scale=scale)
    joined = join_causal(mask, is_causal, q.shape[-2], k.shape[-2], q.device)
    negative = share_of_keys(joined, k.shape[-2], positive).to(positive.dtype).expand_as(positive)
    return {"positive": positive, "negative": negative, "combined": less(positive, lambdas.view(-1, 1, 1), negative)}


@leaf
def centered_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """The formula with both maps in memory; the second is the softmax of no logits."""
    positive = softmax_attention_reference(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    if mask is not None and mask.dtype != torch.bool:
        mask = torch.zeros_like(mask).masked_fill(mask <= max(torch.finfo(mask.dtype).min, torch.finfo(torch.float32).min), float("-inf"))
    negative = softmax_attention_reference(torch.zeros_like(q), k, v, mask=mask, is_causal=is_causal)
    return positive - lambdas.view(-1, 1, 1) * negative


def _mean(v: Tensor, mask: Tensor | None, is_causal: bool, num_queries: int) -> Tensor:
    """Of the values that each query may look at, ``(B, H, Nq, Dv)``, or with 1 in the place of Nq where all look at the same."""
    num_keys = v.shape[-2]
    if mask is None and not is_causal:
        return v.sum(-2, keepdim=True) / max(num_keys, 1)
    if mask is None and known(num_queries == num_keys):
        return v.cumsum(-2) / torch.arange(1, num_keys + 1, device=v.device, dtype=v.dtype).view(-1, 1)
    return share_of_keys(join_causal(mask, is_causal, num_queries, num_keys, v.device), num_keys, v) @ v
