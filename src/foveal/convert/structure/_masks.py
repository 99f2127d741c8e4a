"""Masks among the arguments: one of numbers is given where one may be, so that it is seen what becomes of it.

Shapes     B samples or windows, H heads, Nq queries, Nk keys
"""

import torch
from torch import Tensor, nn

from ._arguments import Call
from ._seen import run

__all__ = ["MASKS", "same_mask", "with_mask"]

MASKS = ("attention_mask", "attn_mask", "mask")


def with_mask(copy: nn.Module, call: Call, tokens: set[str]) -> tuple[Call, str]:
    """The call with a mask of numbers where a mask may be given, so that what becomes of it is seen; and the mask's name."""
    name = next((one for one in MASKS if one in call.names or one in call.values), "")
    if not name:
        return call, ""
    logits = run(copy, call.given).logits[0]
    if logits.ndim != 4:
        return call, name
    source = torch.Generator().manual_seed(7)
    mask = torch.randn((logits.shape[0], 1, *logits.shape[-2:]), generator=source).to(logits.device)
    there = call.values.get(name)
    if isinstance(there, Tensor) and there.dtype == torch.bool:
        mask = mask > -1
        mask[..., 0] = True
    elif isinstance(there, Tensor) and there.shape != mask.shape and there.ndim != 4:
        return call, name
    windows = mask[: len(mask) // 2 if len(mask) % 2 == 0 else None, 0]
    for form in (mask, windows) if mask.is_floating_point() else (mask,):
        other = Call(call.names, call.defaults, call.values | {name: form})
        try:
            seen = run(copy, other.given)
        except (RuntimeError, ValueError, TypeError, IndexError):
            continue
        # given one of another form, some make more samples of it without a word
        if seen.logits[0].shape == logits.shape:
            return other, name
    return call, name


def same_mask(added: Tensor, mask: Tensor) -> bool:
    if mask.dtype == torch.bool:
        told = torch.zeros_like(added).masked_fill(~mask.expand_as(added), float("-inf"))
        if not _fits(mask, added):
            return False
        closed = (added == float("-inf")) | (added < -1e4)
        return torch.equal(closed, told.isinf()) and bool((added[~closed].abs() < 1e-3).all())
    return _fits(mask, added) and torch.allclose(added, mask.expand_as(added), rtol=1e-3, atol=1e-3)


def _fits(mask: Tensor, logits: Tensor) -> bool:
    return mask.ndim <= 4 and all(got in (1, want) for got, want in zip(mask.shape[::-1], logits.shape[::-1], strict=False))
