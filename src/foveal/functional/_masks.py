"""Masks, spoken as ``F.scaled_dot_product_attention`` speaks them: True takes part, or a float that is added to the logits."""

import torch
from torch import Tensor

__all__ = ["add_mask", "causal_mask", "join_causal"]


def causal_mask(num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor:
    """True where a query may look: at keys up to its own position, ``(Nq, Nk)``."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril()


def join_causal(mask: Tensor | None, is_causal: bool, num_queries: int, num_keys: int, device: torch.device | None = None) -> Tensor | None:
    """One mask that says both; PyTorch's fused kernel takes a mask or causality, not the two together."""
    if not is_causal:
        return mask
    causal = causal_mask(num_queries, num_keys, device)
    if mask is None:
        return causal
    return mask & causal if mask.dtype == torch.bool else mask.masked_fill(~causal, float("-inf"))


def add_mask(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits with masked pairs at -inf."""
    if mask is None:
        return logits
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask
