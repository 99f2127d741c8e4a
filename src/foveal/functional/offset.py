"""Offset attention's map: self-attention of one tensor with itself, normalized twice.

Paper      Guo et al., "PCT: Point Cloud Transformer", 2021 (arXiv 2012.09688), Eq. 6 to 8.
Official   MenghaoGuo/PCT
Formula    E = K Kᵀ;  A = softmax_rows(E), columns divided by their sums;  r_j = Σ_i A_ij v_i
Differs    Since E is symmetric, A_ij = softmax_i(E_ij − L_i) with L_i = logsumexp_j E_ij: ordinary attention with a bias on each key. Ours computes that; the
           official division is 0/0 where all of a column underflows. With ``eps``, the official 1e-9, the division is done as they do it.
Status     outputs and gradients equal to the official module's

Shapes     B batch, N points, D width of keys, C channels
"""

from torch import Tensor

from ._precision import whole_precision, wide

__all__ = ["offset_attention", "offset_attention_map", "offset_attention_reference"]


def offset_attention(k: Tensor, v: Tensor, *, eps: float = 0.0) -> Tensor:
    """What each point gathers from all; the layer subtracts it from the point itself.

    Args:
        k: queries and keys in one, ``(B, N, D)``.
        v: values, ``(B, N, C)``.
        eps: added to the divisor over columns. 0 is the paper; the official code has 1e-9.

    Returns:
        ``(B, N, C)``.
    """
    return offset_attention_map(k, eps=eps) @ v


def offset_attention_map(k: Tensor, *, eps: float = 0.0) -> Tensor:
    """How much each point takes from each, ``(B, N, N)``: rows sum to one, or below by what ``eps`` takes."""
    full = wide(k)
    # logits are not scaled and reach hundreds: L as a bias beside them, in a fused kernel, would lose the digits that gradients live on
    with whole_precision(k):
        logits = full @ full.mT
        if eps:
            rows = logits.softmax(-1).mT
            return (rows / (eps + rows.sum(-1, keepdim=True))).to(k.dtype)
        return logits.log_softmax(-1).mT.softmax(-1).to(k.dtype)


def offset_attention_reference(k: Tensor, v: Tensor, *, eps: float = 0.0) -> Tensor:
    """The official text, step by step."""
    attention = (k @ k.mT).softmax(dim=-1)
    attention = attention / (eps + attention.sum(dim=1, keepdim=True))
    return (v.mT @ attention).mT
