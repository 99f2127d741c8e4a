"""Differential attention: the difference of two softmax maps, on one set of values. A baseline for denoising attention.

Paper      Ye et al., "Differential Transformer", 2024 (arXiv 2410.05258), eq. 1-3.
Official   microsoft/unilm, Diff-Transformer
Formula    Y_h = (softmax(Q₁ K₁ᵀ) − λ softmax(Q₂ K₂ᵀ)) V; the layer then normalizes each head and multiplies by 1 − λ_init
Differs    λ may also be one number per head; the paper has one per layer.
Status     outputs equal to timm's ``DiffAttention``

Shapes     B batch, H heads, Nq queries, Nk keys, D head width of one half, Dv value width (2D in the paper)
"""

from torch import Tensor

from .._fx import leaf
from ._precision import less
from .softmax import softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = ["differential_attention", "differential_attention_maps", "differential_attention_reference"]


@leaf
def differential_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_neg: Tensor,
    k_neg: Tensor,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """``(softmax(q kᵀ) − λ softmax(q_neg k_negᵀ)) v`` as two fused calls.

    Args:
        q, k: the first pair, ``(B, H, Nq, D)`` and ``(B, H, Nk, D)``.
        v: values of both maps, ``(B, H, Nk, Dv)``.
        q_neg, k_neg: the second pair, shaped like the first.
        lambdas: strength of the second map, a scalar or ``(H, 1, 1)``.
        mask, is_causal, dropout_p, scale: as in :func:`~foveal.functional.softmax_attention`, for both maps.

    Returns:
        ``(B, H, Nq, Dv)``, before the head norm of the layer.
    """
    first = softmax_attention(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    second = softmax_attention(q_neg, k_neg, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    return less(first, lambdas, second)


@leaf
def differential_attention_maps(
    q: Tensor, k: Tensor, *, q_neg: Tensor, k_neg: Tensor, lambdas: Tensor, mask: Tensor | None = None, is_causal: bool = False, scale: float | None = None
) -> dict[str, Tensor]:
    """``positive``, ``negative`` (rows sum to one) and ``combined`` = positive − λ · negative, each ``(B, H, Nq, Nk)``; ``combined @ v`` is the output."""
    positive = softmax_attention_map(q, k, mask=mask, is_causal=is_causal, scale=scale)
    negative = softmax_attention_map(q_neg, k_neg, mask=mask, is_causal=is_causal, scale=scale)
    return {"positive": positive, "negative": negative, "combined": less(positive, lambdas, negative)}


@leaf
def differential_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_neg: Tensor,
    k_neg: Tensor,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The paper's equation with both maps in memory."""
    first = softmax_attention_reference(q, k, v, mask=mask, is_causal=is_causal, scale=scale)
    second = softmax_attention_reference(q_neg, k_neg, v, mask=mask, is_causal=is_causal, scale=scale)
    return first - lambdas * second
