"""What PyTorch's fused kernel computes on its way and does not give out."""

import torch
from torch import Tensor

__all__ = ["kernel_logits"]


def kernel_logits(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What the softmax of ``F.scaled_dot_product_attention`` is given, ``(…, Nq, Nk)``, masks and all, in the precision that its kernels compute it in."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    wide = query.dtype if query.dtype == torch.float64 else torch.float32
    logits = (query.to(wide) * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.to(wide).mT
    if is_causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1), float("-inf"))
    if attn_mask is not None:
        # added, as in the kernels: what is NaN stays so where it is masked
        logits = logits + (torch.zeros_like(attn_mask, dtype=wide).masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else attn_mask)
    return logits
