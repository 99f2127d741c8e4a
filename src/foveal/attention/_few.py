"""Few queries over many tokens of another source: neither keys nor values of the tokens are made.

Formula    q · (W_k t + b_k) = (W_kᵀ q) · t + q · b_k     the last term is the same for all tokens t, and softmax does not see it
           Σ a_t (W_v t + b_v) = W_v (Σ a_t t) + b_v      as the weights a of a query sum to 1
Cost       2·H·P·N·C for P queries of H heads over N tokens of width C, and 2·N·C·(H·D) with keys and values made first: less where H·P is below H·D
The outputs are the same but for rounding.

Shapes     B batch, H heads, P queries, N tokens, C channels, D head width
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._fx import leaf
from ..functional import softmax_attention
from ..functional._transforms import known
from ._linear import is_plain

__all__ = ["folds", "gather_folded", "gathered_values"]


def folds(attention: Any, queries: int, context: Any, rope: Any, options: dict[str, Any], layers: Sequence[nn.Module], made: int, gathered: int) -> bool:
    """Whether an attention was told to read so, can, and is quicker for it.

    Args:
        attention: an attention with ``qkv``, whose ``few_queries`` says whether it was told to.
        queries: P.
        context: the tokens.
        rope: positions, which stand between a key and its weights.
        options: of the call; dropout on the map leaves no sum of 1.
        layers: whose weights are used without calling them.
        made: keys and values that would be made of the tokens otherwise, in maps of them.
        gathered: products of tokens and queries instead.
    """
    plain = all(is_plain(layer, nn.Linear) for layer in layers) and isinstance(attention.k_norm, nn.Identity) and attention.core.name == "softmax"
    if not (attention.few_queries and plain and isinstance(context, Tensor) and rope is None and not options["dropout_p"]):
        return False
    return known(gathered * attention.num_heads * queries < made * attention.inner_dim)


@leaf
def gather_folded(q: Tensor, tokens: Tensor, key_weight: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """``Σ a_t t``: what each query of each head gathers of the tokens themselves, ``(B, H, P, C)``.

    Args:
        q: queries, ``(B, H, P, D)``.
        tokens: ``(B, N, C)``.
        key_weight: of the keys, ``(H, D, C)``.
        mask: as of :func:`~foveal.functional.softmax_attention`.
    """
    folded = torch.einsum("bhpd,hdc->bhpc", q, key_weight)
    heads, count = q.shape[1:3]
    if mask is not None:
        mask = mask if mask.ndim == 4 else mask[None, None]
        # one that is the same for all heads and queries stays as small as it is
        mask = mask if mask.shape[1] == mask.shape[2] == 1 else mask.expand(-1, heads, count, -1).flatten(1, 2)[:, None]
    # the queries of all heads are queries of one, as all of them read the same tokens
    whole = tokens[:, None].to(folded.dtype)
    got = softmax_attention(folded.flatten(1, 2)[:, None], whole, whole, mask=mask, scale=q.shape[-1] ** -0.5)
    return got[:, 0].unflatten(1, (heads, count))


@leaf
def gathered_values(gathered: Tensor, value_weight: Tensor, value_bias: Tensor | None, *, mask: Tensor | None = None) -> Tensor:
    """``W_v (Σ a_t t) + b_v``, ``(B, H, P, D)``, of what :func:`gather_folded` gives.

    Args:
        gathered: ``(B, H, P, C)``.
        value_weight: of the values, ``(H, D, C)``.
        value_bias: ``(H, D)``.
        mask: the same as there: a query that sees no token gathers nothing, not even the bias.
    """
    out = torch.einsum("bhpc,hdc->bhpd", gathered, value_weight)
    if value_bias is None:
        return out
    bias = value_bias[:, None].to(out.dtype)
    if mask is None:
        return out + bias
    sees = mask.any(-1, keepdim=True) if mask.dtype == torch.bool else (mask > -torch.inf).any(-1, keepdim=True)
    return out + bias * sees
