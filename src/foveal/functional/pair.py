"""The signed pair: a core applied twice over the same keys, once for a query and once against another. Denoising and causal attention are made of it.

Formula    core(Q⁺, K, V⁺), core(−Q⁻, K, V⁻)
Note       With the softmax core the second map is a softmin of Q⁻ Kᵀ. A mask is applied after the query is negated: negating masked logits, as a literal
           softmin does, would give masked keys all the weight.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .softmax import AttentionFunction, softmax_attention, softmax_attention_map

__all__ = ["CoreMap", "pair", "signed_pair", "signed_pair_maps"]

CoreMap = Callable[..., Tensor]
"""The map that belongs to a core: ``f(q, k, *, mask=None, ...) -> (B, H, Nq, Nk)``."""


def signed_pair(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_neg: Tensor,
    v_neg: Tensor | None = None,
    core: AttentionFunction = softmax_attention,
    is_causal: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """What is gathered for, and what against; each ``(B, H, Nq, Dv)``.

    Args:
        q: positive queries, ``(B, H, Nq, D)``.
        k: keys of both, ``(B, H, Nk, D)``.
        v: positive values, ``(B, H, Nk, Dv)``.
        q_neg: negative queries, ``(B, H, Nq, D)``; negated here.
        v_neg: negative values, ``(B, H, Nk, Dv)``; ``v`` if None.
        core: any attention ``f(q, k, v, *, mask, dropout_p, scale)``.
        is_causal: a query looks only at keys up to its own position. The core must know how.
        options: of the core: ``mask``, ``dropout_p``, ``scale``.
    """
    return pair(q, k, v, q_other=-q_neg, v_other=v_neg, core=core, is_causal=is_causal, **options)


def pair(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_other: Tensor,
    v_other: Tensor | None = None,
    core: AttentionFunction = softmax_attention,
    is_causal: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """A core applied twice over the same keys, without a sign; otherwise as :func:`signed_pair`."""
    # a core that cannot be causal need not have the word
    causal = {"is_causal": True} if is_causal else {}
    return core(q, k, v, **options, **causal), core(q_other, k, v if v_other is None else v_other, **options, **causal)


def signed_pair_maps(
    q: Tensor, k: Tensor, *, q_neg: Tensor, core_map: CoreMap = softmax_attention_map, is_causal: bool = False, **options: Any
) -> tuple[Tensor, Tensor]:
    """The two maps, each ``(B, H, Nq, Nk)``."""
    causal = {"is_causal": True} if is_causal else {}
    return core_map(q, k, **options, **causal), core_map(-q_neg, k, **options, **causal)
