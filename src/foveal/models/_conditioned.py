"""What networks have in common that are asked what in an image is noise: images, timesteps and classes, checked in one way."""

import torch
from torch import Tensor

from .._errors import InputError

__all__ = ["checked_inputs"]


def checked_inputs(what: str, x: Tensor, t: Tensor, y: Tensor | None, *, in_chans: int, size: tuple[int, int], num_classes: int) -> Tensor:
    """The classes ``(B,)``, which are K, none, where they were left out.

    Args:
        what: kind of network, for the message.
        x: images ``(B, C, H, W)``.
        t: timesteps ``(B,)``.
        y: classes ``(B,)`` or None.
        in_chans: C.
        size: H and W.
        num_classes: K.

    Raises:
        ValueError: another shape or type.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != (in_chans, *size) or not x.is_floating_point():
        want = f"(B, {in_chans}, {size[0]}, {size[1]})"
        raise InputError(f"this {what} expects images {want} in floating point, got {tuple(x.shape)} of {x.dtype}")
    for name, value in (("timesteps", t), ("classes", y)):
        if value is not None and value.shape != x.shape[:1]:
            raise InputError(f"{name} must be one for each of {len(x)} images, got {tuple(value.shape)}")
    return torch.full_like(t, num_classes, dtype=torch.long) if y is None else y
