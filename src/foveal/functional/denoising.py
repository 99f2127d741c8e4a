"""Denoising attention (DnA): every pair of tokens meets twice, for and against.

Paper      Campos et al., "DnA: Denoising Attention", ECCV 2026 (arXiv 2606.27372).
Official   rjccv/DnA
Formula    Y_h = core(Q⁺, K, V⁺) − λ_h · core(−Q⁻, K, V⁻), one shared K, λ_h a free scalar per head
Differs    The official files disagree on the sign of the second branch (some add, some subtract). With values of its own the branch can
           absorb the sign into V⁻, so we always subtract and ``foveal.official`` folds. With shared values the sign is real: we subtract.
           The core need not be softmax; that generality is ours.
Status     outputs and gradients equal to the official modules'

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

from torch import Tensor

from .._fx import leaf
from ._precision import less
from .pair import CoreMap, signed_pair, signed_pair_maps
from .softmax import AttentionFunction, softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = ["denoising_attention", "denoising_attention_maps", "denoising_attention_reference"]


@leaf
def denoising_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_neg: Tensor,
    v_neg: Tensor | None = None,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    core: AttentionFunction = softmax_attention,
) -> Tensor:
    """``core(q, k, v) − λ · core(−q_neg, k, v_neg)``: two calls of the core, so nothing ``Nq × Nk`` is kept where the core is fused.

    Args:
        q: positive queries, ``(B, H, Nq, D)``: what belongs.
        k: keys, ``(B, H, Nk, D)``, shared by both branches.
        v: values of the positive branch, ``(B, H, Nk, Dv)``.
        q_neg: negative queries, ``(B, H, Nq, D)``: what is similar and does not belong.
        v_neg: values of the negative branch, ``(B, H, Nk, Dv)``; ``v`` if None (the shared-values variant).
        lambdas: strength of the negative branch per head, ``(H,)``, unconstrained.
        mask: bool (True takes part) or float, broadcastable to ``(B, H, Nq, Nk)``; holds for both branches.
        is_causal: a query looks only at keys up to its own position. The core must know how.
        dropout_p: dropout on both maps, drawn independently.
        scale: factor on the logits of both branches; the core's default if None.
        core: any attention ``f(q, k, v, *, mask, dropout_p, scale)``.

    Returns:
        ``(B, H, Nq, Dv)``.
    """
    positive, negative = signed_pair(q, k, v, q_neg=q_neg, v_neg=v_neg, core=core, is_causal=is_causal, mask=mask, dropout_p=dropout_p, scale=scale)
    return less(positive, lambdas.view(-1, 1, 1), negative)


@leaf
def denoising_attention_maps(
    q: Tensor,
    k: Tensor,
    *,
    q_neg: Tensor,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    core_map: CoreMap = softmax_attention_map,
) -> dict[str, Tensor]:
    """The maps, each ``(B, H, Nq, Nk)``; ``core_map`` is the one that belongs to the core.

    Under the softmax core ``positive`` A⁺ and ``negative`` A⁻ have rows that sum to one; ``combined`` is A⁺ − λA⁻, with rows that sum to 1 − λ and entries
    of both signs. With shared values ``combined @ v`` is the output. With values apart it is ``positive @ v − λ · negative @ v_neg``, and ``combined`` is a
    summary to look at.
    """
    positive, negative = signed_pair_maps(q, k, q_neg=q_neg, core_map=core_map, is_causal=is_causal, mask=mask)
    return {"positive": positive, "negative": negative, "combined": less(positive, lambdas.view(-1, 1, 1), negative)}


@leaf
def denoising_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_neg: Tensor,
    v_neg: Tensor | None = None,
    lambdas: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """The formula of the file's head with both maps in memory."""
    positive = softmax_attention_reference(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    negative = softmax_attention_reference(-q_neg, k, v if v_neg is None else v_neg, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    return positive - lambdas.view(-1, 1, 1) * negative
