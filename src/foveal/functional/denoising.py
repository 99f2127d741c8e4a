"""Denoising attention (DnA): every pair of tokens meets twice, for and against.

Paper      Campos et al., "DnA: Denoising Attention", ECCV 2026 (arXiv 2606.27372).
Official   rjccv/DnA
Formula    Y_h = core(Q⁺, K, V⁺) − λ_h · core(−Q⁻, K, V⁻), one shared K, λ_h a free scalar per head
Differs    The official files disagree on the sign of the second branch (some add, some subtract). With values of its own the branch can
           absorb the sign into V⁻, so we always subtract and ``foveal.official`` folds. With shared values the sign is real: we subtract.
           A mask is applied after the query is negated. Negating masked logits, as a literal softmin does, would give masked keys all the weight.
           The core need not be softmax; that generality is ours.
Status     outputs and gradients equal to the official modules'

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

from torch import Tensor

from .softmax import Core, softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = ["denoising_attention", "denoising_attention_maps", "denoising_attention_reference"]


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
    core: Core = softmax_attention,
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
    options = {"mask": mask, "dropout_p": dropout_p, "scale": scale}
    if is_causal:
        options["is_causal"] = True
    positive = core(q, k, v, **options)
    negative = core(-q_neg, k, v if v_neg is None else v_neg, **options)
    return positive - lambdas.to(negative.dtype).view(-1, 1, 1) * negative


def denoising_attention_maps(
    q: Tensor, k: Tensor, *, q_neg: Tensor, lambdas: Tensor, mask: Tensor | None = None, is_causal: bool = False, scale: float | None = None
) -> dict[str, Tensor]:
    """The maps of the softmax core, each ``(B, H, Nq, Nk)``.

    ``positive`` A⁺ and ``negative`` A⁻ have rows that sum to one; ``combined`` is A⁺ − λA⁻, with rows that sum to 1 − λ and entries of both signs.
    With shared values ``combined @ v`` is the output. With values apart it is ``positive @ v − λ · negative @ v_neg`` and ``combined`` is a summary to look at.
    """
    positive = softmax_attention_map(q, k, mask=mask, is_causal=is_causal, scale=scale)
    negative = softmax_attention_map(-q_neg, k, mask=mask, is_causal=is_causal, scale=scale)
    return {"positive": positive, "negative": negative, "combined": positive - lambdas.to(negative.dtype).view(-1, 1, 1) * negative}


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
