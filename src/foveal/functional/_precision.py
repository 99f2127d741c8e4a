"""Half precision: what a softmax or a normalization reads is float32, as in PyTorch's fused kernels. What is stored and what maps are applied to stays half.

Logits that were rounded before they are widened are as wrong as if they never had been: bfloat16 moves a logit of 30 by up to 0.06, and its weight by 6 %.
float16 has no room for a logit beyond 65504.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["is_half", "less", "lowered", "whole_precision", "wide", "wide_dtype"]


def whole_precision(x: Tensor) -> AbstractContextManager:
    """Autocast off: inside it, products of float32 are what they say."""
    # asked first, and not switched off on suspicion: an exported graph should not carry a region it does not need
    return torch.autocast(x.device.type, enabled=False) if _autocasts(x) else nullcontext()


def lowered(x: Tensor) -> Tensor:
    """What autocast hands to a fused kernel: float32 in the dtype of autocast, where that is on."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if x.dtype == torch.float32 and _autocasts(x) else x


def is_half(x: Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16)


def wide_dtype(x: Tensor) -> torch.dtype:
    """What logits, and sums over positions, are kept in: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    return x.to(wide_dtype(x))


def less(first: Tensor, factor: Tensor, second: Tensor) -> Tensor:
    """``first − factor · second``, rounded once: where the two are nearly equal, each further rounding is large beside what is left."""
    if not is_half(second):
        return first - factor.to(second.dtype) * second
    return (wide(first) - wide(factor) * wide(second)).to(second.dtype)


def _autocasts(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
