"""Masks, spoken as ``F.scaled_dot_product_attention`` speaks them: True takes part, or a float that is added to the logits."""

import torch
from torch import Tensor

from .._errors import InputError
from ._precision import wide_dtype

__all__ = ["add_mask", "causal_mask", "join_causal", "keys_that_take_part", "share_of_keys"]


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


def share_of_keys(mask: Tensor | None, num_keys: int, like: Tensor) -> Tensor:
    """The map that gives all keys that a query may look at the same weight, broadcastable to ``(B, H, Nq, Nk)``; zeros where there are none.

    Args:
        mask: bool, or float, where -inf and the lowest finite number of its dtype, or of float32, leave a key out; None leaves out none.
        num_keys: Nk.
        like: a tensor of the device and, widened to at least float32, of the dtype that are wanted.
    """
    dtype = wide_dtype(like)
    if mask is None:
        return torch.full((1, num_keys), 1 / max(num_keys, 1), dtype=dtype, device=like.device)
    allowed = mask if mask.dtype == torch.bool else mask > _lowest(mask.dtype)
    # over all keys also where the mask is the same for all of them
    allowed = allowed.expand(*allowed.shape[:-1], num_keys).to(dtype)
    return allowed / allowed.sum(-1, keepdim=True).clamp_min(1)


def _lowest(dtype: torch.dtype) -> float:
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


def keys_that_take_part(what: str, mask: Tensor) -> Tensor:
    """A mask of keys as bool, where it was made float on its way, as PyTorch's encoder does: 0 takes part, -inf does not.

    The lowest finite number of its dtype, or of float32, says what -inf says: many write it so. No other number has a meaning where keys are left out or not.

    Args:
        what: names the attention.
        mask: of keys, any shape; other dtypes than floating point come back as they are.

    Raises:
        ValueError: a float that is neither. On CUDA and in compiled graphs, which nobody can look into without stopping them, a device-side assertion says so
            instead, as it does for indices out of range in PyTorch.
    """
    if not mask.is_floating_point():
        return mask
    keys = mask == 0
    plain = (keys | (mask <= _lowest(mask.dtype))).all()
    message = (
        f"{what} can leave out keys and nothing between, by a bool mask or one of 0 and -inf; this float mask has other values, "
        "which softmax or denoising attention can add to their logits"
    )
    if torch.compiler.is_compiling() or plain.is_cuda:
        torch._assert_async(plain, message)
    elif not plain:
        raise InputError(message)
    return keys
