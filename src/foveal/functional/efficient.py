"""Efficient attention (EA): tokens meet through a small summary of all values, one row for each channel of the keys.

Paper      Shen et al., "Efficient Attention: Attention with Linear Complexities", WACV 2021 (arXiv 1812.01243), section 3.
Official   cmsflash/efficient-attention
Formula    G = ρ_k(K)ᵀ V;  Y = ρ_q(Q) G
           softmax: ρ_q over the D channels of a query, ρ_k over the Nk positions of a channel
           scaling: Y = Q (Kᵀ V) / Nk, which is scaled dot-product attention without its softmax, associated the cheap way
Differs    Keys can be masked; padded positions enter the official softmax. ``scaling`` of the paper is here, the official code has softmax alone.
           Sums over positions run in float32 at least; at N = 65536 nearly all weights are below what float16 resolves.
           Positions can be read in pieces, with a running maximum: exact, at a fixed extra memory.
Note       ``softmax`` is no approximation of softmax attention: its map has rank ≤ D, and D = 1 makes all outputs of a head equal.
           There is no 1/√D in it. A row of the map is a convex combination of D maps over positions that all queries share.
           No position is known to it: permuted tokens give permuted outputs.
Status     outputs and gradients equal to the official module's

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import unknown
from .._fx import leaf
from ._masks import add_mask
from ._precision import whole_precision, wide, wide_dtype
from ._summary import for_each_query, key_count, key_mask, piece_size, pieces, scaled

__all__ = ["EfficientNorm", "efficient_attention", "efficient_attention_map", "efficient_attention_reference"]

EfficientNorm = Literal["softmax", "scaling"]
"""``softmax`` gives maps whose rows are convex weights. ``scaling`` gives signed ones, in which a key stands out only by its size."""


@leaf
def efficient_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    normalization: EfficientNorm = "softmax",
    chunk: int | None = None,
) -> Tensor:
    """Summarize the values once, let every query read the summary: time linear in positions, nothing ``Nq × Nk`` is formed.

    Args:
        q: queries, ``(B, H, Nq, D)``.
        k: keys, ``(B, H, Nk, D)``.
        v: values, ``(B, H, Nk, Dv)``.
        mask: of keys, broadcastable to ``(B, H, 1, Nk)``: bool (True takes part) or float (0 takes part, -inf does not; under ``softmax`` any number, which is
            added to the keys' logits).
        dropout_p: share of what a query takes from each row of the summary that is zeroed; applies whenever it is not 0.
        scale: factor on the logits, which are ``q`` and ``k`` under ``softmax`` and their products under ``scaling``. 1 if None, as in the paper.
        normalization: see :data:`EfficientNorm`.
        chunk: positions that are read at a time; if None all, or without gradients on the CPU as many as its cache holds. The result is the same. Working
            memory is that of one piece, unless gradients are kept.

    Returns:
        ``(B, H, Nq, Dv)`` in the dtype of ``v``; zeros where every key is masked.

    Raises:
        ValueError: an unknown normalization; a mask per query, or under ``scaling`` of other floats than 0 and -inf; ``chunk`` below 1.
    """
    norm = _find(normalization)
    keep, scale = key_mask("efficient attention", mask, k, floats=norm.floats), 1.0 if scale is None else scale
    with whole_precision(v):
        summary = norm.summary(k, v, keep, scale, piece_size(chunk, v))

        def mixed(some: Tensor) -> Tensor:
            query_weights = norm.query_weights(wide(some), scale)
            return ((F.dropout(query_weights, dropout_p) if dropout_p else query_weights) @ summary).to(v.dtype)

        return for_each_query(mixed, q, piece_size(chunk, q))


@leaf
def efficient_attention_map(
    q: Tensor, k: Tensor, *, mask: Tensor | None = None, scale: float | None = None, normalization: EfficientNorm = "softmax"
) -> Tensor:
    """The map that is implied, ``(B, H, Nq, Nk)``; applied to the values it gives the output. Quadratic in N, for looking only.

    Under ``softmax`` rows are convex weights: they sum to one, or to zero where every key is masked. Under ``scaling`` entries have both signs.
    """
    # one-hot values come back as the weights that they were given
    one_hot = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device).expand(*k.shape[:-2], -1, -1)
    return efficient_attention(q, k, one_hot, mask=mask, scale=scale, normalization=normalization)


@leaf
def efficient_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None, normalization: EfficientNorm = "softmax"
) -> Tensor:
    """The formula of the file's head, associated the costly way: the map first, in memory, then the values. Bool masks alone, and some key must be left."""
    scale = 1.0 if scale is None else scale
    present = torch.ones_like(k[..., :1]) if mask is None else mask.transpose(-2, -1).to(k)
    if normalization == "scaling":
        return (scale * q @ k.transpose(-2, -1) * present.transpose(-2, -1) / present.sum(dim=-2, keepdim=True)) @ v
    query_weights = (scale * q).exp() / (scale * q).exp().sum(dim=-1, keepdim=True)
    key_weights = (scale * k).exp() * present
    key_weights = key_weights / key_weights.sum(dim=-2, keepdim=True)
    return (query_weights @ key_weights.transpose(-2, -1)) @ v


def _softmax_query_weights(q: Tensor, scale: float) -> Tensor:
    return scaled(q, scale).softmax(dim=-1)


def _softmax_summary(k: Tensor, v: Tensor, keep: Tensor | None, scale: float, chunk: int | None) -> Tensor:
    if keep is None and chunk is None:
        return scaled(wide(k), scale).softmax(dim=-2).transpose(-2, -1) @ wide(v)
    *outer, _, width = k.shape
    # the lowest finite number, not -inf: a channel that has seen no key yet must not give -inf − -inf
    top = k.new_full((*outer, 1, width), torch.finfo(wide_dtype(k)).min, dtype=wide_dtype(k))
    total, summary = torch.zeros_like(top), v.new_zeros((*outer, width, v.shape[-1]), dtype=wide_dtype(v))
    for at in pieces(chunk, k.shape[-2]):
        logits = add_mask(scaled(wide(k[..., at, :]), scale), None if keep is None else keep[..., at, :])
        # the result does not depend on the maximum, so no gradient need pass through it
        highest = torch.maximum(top, logits.detach().amax(dim=-2, keepdim=True))
        weights, shrink = (logits - highest).exp_(), (top - highest).exp_()
        total = total * shrink + weights.sum(dim=-2, keepdim=True)
        summary = summary * shrink.transpose(-2, -1) + weights.transpose(-2, -1) @ wide(v[..., at, :])
        top = highest
    # the largest key of a channel counts 1, so a total of 0 means that there is no key
    return summary / (total + (total == 0)).transpose(-2, -1)


def _scaling_query_weights(q: Tensor, scale: float) -> Tensor:
    return scaled(q, scale)


def _scaling_summary(k: Tensor, v: Tensor, keep: Tensor | None, scale: float, chunk: int | None) -> Tensor:
    summary = v.new_zeros((*k.shape[:-2], k.shape[-1], v.shape[-1]), dtype=wide_dtype(v))
    for at in pieces(chunk, k.shape[-2]):
        keys = wide(k[..., at, :])
        summary = summary + (keys if keep is None else keys.masked_fill(~keep[..., at, :], 0.0)).transpose(-2, -1) @ wide(v[..., at, :])
    return summary / key_count(keep, k)


class _Norm(NamedTuple):
    query_weights: Callable[[Tensor, float], Tensor]
    summary: Callable[[Tensor, Tensor, Tensor | None, float, int | None], Tensor]
    floats: bool
    """Whether a float mask, which is added to logits of keys, has a meaning."""


_NORMS = {"softmax": _Norm(_softmax_query_weights, _softmax_summary, floats=True), "scaling": _Norm(_scaling_query_weights, _scaling_summary, floats=False)}


def _find(normalization: str) -> _Norm:
    if normalization not in _NORMS:
        raise unknown("normalization of efficient attention", normalization, _NORMS)
    return _NORMS[normalization]
