"""External attention (EA): tokens meet through a few learned memory slots.

Paper      Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks", 2021 (arXiv 2105.02358), Alg. 1 and 2.
Official   MenghaoGuo/EANet
Formula    L = Q M_kᵀ;  A = softmax_slots(L − logsumexp_tokens L);  Y = A M_v
Differs    The paper divides twice (softmax over tokens, then l1 over slots). Ours is equal in exact arithmetic and stays finite where
           that division is 0/0 (large logits, half precision). ``eps`` reproduces the 1e-9 in the official divisor.
           Padded tokens can be masked; the official code cannot.
Note       A bias on the key memory cancels under ``double`` and ``token``: it moves all tokens of a slot alike. Its gradient is zero there.
Status     outputs and gradients equal to the official modules'

Shapes     B batch, H heads, N tokens, D head width, S slots
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import unknown
from .._fx import leaf
from .._renamed import renamed_arguments
from ._precision import whole_precision, wide

__all__ = ["ExternalNorm", "external_attention", "external_attention_map", "external_attention_reference", "external_token_map"]

ExternalNorm = Literal["double", "token", "slot"]
"""``double`` is the paper's. ``token`` leaves out the division over slots. ``slot`` is a plain softmax over slots: no token learns of another."""


@leaf
@renamed_arguments("external_attention", norm="normalization")
def external_attention(
    q: Tensor,
    memory_k: Tensor,
    memory_v: Tensor,
    *,
    bias_k: Tensor | None = None,
    bias_v: Tensor | None = None,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    normalization: ExternalNorm = "double",
    eps: float = 0.0,
) -> Tensor:
    """Mix tokens through a shared memory, in time and memory linear in N.

    Args:
        q: queries, ``(B, H, N, D)``.
        memory_k: slots that tokens are compared with, ``(S, D)``, shared by heads and samples.
        memory_v: what each slot gives back, ``(S, Dv)``.
        bias_k: ``(S,)``, added to the logits.
        bias_v: ``(Dv,)``, added to the output.
        mask: bool, ``(B, N)``, True where a token takes part. Others neither send nor receive: their output is zero.
        dropout_p: dropout on the map; applies whenever it is not 0.
        normalization: how the map is normalized, see :data:`ExternalNorm`.
        eps: added to the divisor over slots. 0 is the paper; the official code has 1e-9.

    Returns:
        ``(B, H, N, Dv)``.

    Raises:
        ValueError: ``normalization`` is not known.
    """
    with whole_precision(q):
        attention = _wide_map(q, memory_k, bias_k, mask, normalization, eps)
        if dropout_p:
            attention = F.dropout(attention, dropout_p)
        # wide here too: under "token" weights are near 1/N, which float16 resolves only for small N
        out = attention @ wide(memory_v) if bias_v is None else attention @ wide(memory_v) + bias_v
        return (out if bias_v is None or mask is None else out * _present(mask)).to(q.dtype)


@leaf
@renamed_arguments("external_attention_map", norm="normalization")
def external_attention_map(
    q: Tensor, memory_k: Tensor, *, bias_k: Tensor | None = None, mask: Tensor | None = None, normalization: ExternalNorm = "double", eps: float = 0.0
) -> Tensor:
    """How much each token takes from each slot, ``(B, H, N, S)``; under ``double`` and ``slot`` the rows of tokens that take part sum to one."""
    with whole_precision(q):
        return _wide_map(q, memory_k, bias_k, mask, normalization, eps).to(q.dtype)


@leaf
@renamed_arguments("external_token_map", norm="normalization")
def external_token_map(
    q: Tensor, memory_k: Tensor, *, bias_k: Tensor | None = None, mask: Tensor | None = None, normalization: ExternalNorm = "double", eps: float = 0.0
) -> Tensor:
    """The implied map from tokens to tokens, ``(B, H, N, N)``, rows sum to one: token → slot → the tokens that filled the slot.

    Quadratic in N, for looking only. It describes who shapes whom through the slots; it does not reproduce the output, which is made of ``memory_v``
    and not of the tokens' values. Under ``slot`` nobody shapes anybody and the map is the identity.
    """
    with whole_precision(q):
        query_weights = _wide_map(q, memory_k, bias_k, mask, normalization, eps)
        if normalization == "slot":
            return torch.eye(q.shape[-2], dtype=q.dtype, device=q.device).expand(*query_weights.shape[:-1], -1) * (1 if mask is None else _present(mask))
        implied = query_weights @ _wide_map(q, memory_k, bias_k, mask, "token", 0.0).transpose(-2, -1)
        return (implied / implied.sum(-1, keepdim=True).clamp_min(torch.finfo(implied.dtype).tiny)).to(q.dtype)


@leaf
@renamed_arguments("external_attention_reference", norm="normalization")
def external_attention_reference(
    q: Tensor, memory_k: Tensor, memory_v: Tensor, *, mask: Tensor | None = None, normalization: ExternalNorm = "double", eps: float = 0.0
) -> Tensor:
    """The paper's Algorithm 1, line by line: easy to check, not to be trusted with large logits."""
    logits = q @ memory_k.transpose(-2, -1)
    present = torch.ones_like(logits[..., :1]) if mask is None else _present(mask).to(logits)
    if normalization == "slot":
        return (logits.softmax(dim=-1) * present) @ memory_v
    attention = (logits - logits.amax()).exp() * present
    attention = attention / attention.sum(dim=-2, keepdim=True)
    if normalization == "double":
        attention = attention / (eps + attention.sum(dim=-1, keepdim=True) + (1 - present))
    return attention @ memory_v


def _wide_map(q: Tensor, memory_k: Tensor, bias_k: Tensor | None, mask: Tensor | None, normalization: str, eps: float) -> Tensor:
    if normalization not in _NORMS:
        raise unknown("normalization of external attention", normalization, _NORMS)
    # half precision would lose the small differences that the two normalizations live on
    logits = wide(q) @ wide(memory_k).transpose(-2, -1)
    if bias_k is not None:
        logits = logits + bias_k
    attention = _NORMS[normalization](logits, mask, eps)
    return attention if mask is None else attention.masked_fill(~_present(mask), 0.0)


def _slot_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Log of the softmax over tokens."""
    if mask is None:
        return logits - logits.logsumexp(dim=-2, keepdim=True)
    total = logits.masked_fill(~_present(mask), float("-inf")).logsumexp(dim=-2, keepdim=True)
    # a sample without any token has total = -inf; its rows are zeroed afterwards, so any finite value serves
    return logits - total.nan_to_num(neginf=0.0)


def _double(logits: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    logits = _slot_logits(logits, mask)
    attention = logits.softmax(dim=-1)
    if eps:
        # x / (x + eps) for the row sum x, without forming x: it may underflow
        attention = attention * (logits.logsumexp(dim=-1, keepdim=True) - math.log(eps)).sigmoid()
    return attention


def _token(logits: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    if mask is None:
        return logits.softmax(dim=-2)
    # masked logits may exceed the sum over the present ones by any amount: exclude them before exp, not after
    return _slot_logits(logits, mask).masked_fill(~_present(mask), float("-inf")).exp()


def _slot(logits: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    return logits.softmax(dim=-1)


def _present(mask: Tensor) -> Tensor:
    return mask[:, None, :, None]


_NORMS = {"double": _double, "token": _token, "slot": _slot}
