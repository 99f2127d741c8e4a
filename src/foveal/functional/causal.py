"""Causal attention (CaaM): every pair of tokens meets twice, for what causes the label and for its complement, with two outputs.

Paper      Wang et al., "Causal Attention for Unbiased Visual Recognition", ICCV 2021 (arXiv 2108.08782).
Official   Wangt-CN/CaaM
Formula    C = softmax(s · Q Kᵀ) V;  S = softmax(−s · Q Kᵀ) V: the signed pair with the query and the values tied
Differs    Masks: the official code has none.
Note       "Causal" is the paper's word, for cause and effect; ``is_causal`` is another matter. The complement is one of sign, not 1 − A: both maps have rows
           that sum to one, and the pair that one map weighs most the other weighs least.
           Their sum does not change when all queries of a head are negated: to first order in the logits it is twice the mean of the values.
Status     outputs and gradients equal to the official block's

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

from torch import Tensor

from .._fx import leaf
from .pair import CoreMap, signed_pair, signed_pair_maps
from .softmax import AttentionFunction, softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = ["causal_attention", "causal_attention_maps", "causal_attention_reference"]


@leaf
def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    core: AttentionFunction = softmax_attention,
) -> tuple[Tensor, Tensor]:
    """``core(q, k, v)`` and ``core(−q, k, v)``.

    Args:
        q: queries, ``(B, H, Nq, D)``.
        k: keys, ``(B, H, Nk, D)``.
        v: values of both, ``(B, H, Nk, Dv)``.
        mask: bool (True takes part) or float (added to the logits), broadcastable to ``(B, H, Nq, Nk)``; holds for both.
        is_causal: a query looks only at keys up to its own position.
        dropout_p: dropout on both maps, drawn independently.
        scale: factor on the logits; the core's default if None.
        core: any attention ``f(q, k, v, *, mask, dropout_p, scale)``.

    Returns:
        Cause and complement, each ``(B, H, Nq, Dv)``.
    """
    return signed_pair(q, k, v, q_neg=q, core=core, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)


@leaf
def causal_attention_maps(
    q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, core_map: CoreMap = softmax_attention_map
) -> dict[str, Tensor]:
    """``positive`` A and ``negative`` Ā, whose rows sum to one, and ``combined`` = A + Ā, the mixture's; each ``(B, H, Nq, Nk)``."""
    positive, negative = signed_pair_maps(q, k, q_neg=q, core_map=core_map, mask=mask, is_causal=is_causal)
    return {"positive": positive, "negative": negative, "combined": positive + negative}


@leaf
def causal_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The formula of the file's head with both maps in memory."""
    cause = softmax_attention_reference(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    complement = softmax_attention_reference(-q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    return cause, complement
