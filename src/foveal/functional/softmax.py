"""Softmax attention: every pair of tokens meets once. The baseline everything else is judged against.

Paper      Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), eq. 1.
Official   ``torch.nn.functional.scaled_dot_product_attention``
Differs    A query that may look at no key gets zeros, in every path. The textbook formula gives 0/0 there.
Status     proven against PyTorch and timm

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .._fx import leaf
from .._renamed import moved_member
from ._masks import add_mask, join_causal
from ._precision import whole_precision, wide
from ._transforms import fused_attention

__all__ = ["AttentionFunction", "softmax_attention", "softmax_attention_map", "softmax_attention_reference"]

AttentionFunction = Callable[..., Tensor]
"""Any ``f(q, k, v, *, mask=None, dropout_p=0.0, scale=None)``; a core that can be causal also takes ``is_causal``."""


@leaf
def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """``softmax(scale · q kᵀ + mask) v`` through PyTorch's fused kernel.

    Args:
        q: queries, ``(B, H, Nq, D)``.
        k: keys, ``(B, H, Nk, D)``.
        v: values, ``(B, H, Nk, Dv)``.
        mask: bool (True takes part) or float (added to the logits), broadcastable to ``(B, H, Nq, Nk)``.
        is_causal: a query looks only at keys up to its own position; may be given together with ``mask``.
        dropout_p: share of map entries zeroed. It applies whenever it is not 0: the caller knows whether this is training.
        scale: factor on the logits; ``D ** -0.5`` if None.
        softcap: c of ``c · tanh(scale · q kᵀ / c)``, which keeps logits within ±c before the mask (Gemma 2, arXiv 2408.00118, section 2). The fused kernel has
            none, so that the map is made.

    Returns:
        ``(B, H, Nq, Dv)``; zeros for a query whose every key is masked.
    """
    if softcap is not None:
        return softmax_attention_reference(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale, softcap=softcap)
    if mask is not None and is_causal:
        mask, is_causal = join_causal(mask, True, q.shape[-2], k.shape[-2], q.device), False
    return fused_attention(q, k, v, mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale)


@leaf
def softmax_attention_map(
    q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, scale: float | None = None, softcap: float | None = None
) -> Tensor:
    """How much each query takes from each key, ``(B, H, Nq, Nk)``; rows sum to one, or to zero where every key is masked."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = join_causal(mask, is_causal, q.shape[-2], k.shape[-2], q.device)
    with whole_precision(q):
        logits = (wide(q) * scale) @ wide(k).transpose(-2, -1)
        logits = logits if softcap is None else softcap * (logits / softcap).tanh()
        attention = add_mask(logits, mask).softmax(dim=-1)
        return (attention if mask is None else attention.nan_to_num(nan=0.0)).to(q.dtype)


@leaf
def softmax_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The same with the map in memory, to be checked by eye. Dropout draws other numbers than the fused kernel does."""
    return F.dropout(softmax_attention_map(q, k, mask=mask, is_causal=is_causal, scale=scale, softcap=softcap), dropout_p) @ v


_OLD_NAMES = {"Core": "AttentionFunction"}


def __getattr__(name: str) -> Any:
    return moved_member(__name__, name, _OLD_NAMES, globals())
