"""Networks that want sides divisible by their stride, on images of any size."""

import torch.nn.functional as F
from torch import Tensor

from ..._fx import leaf

__all__ = ["pad_to", "resize"]


@leaf
def pad_to(x: Tensor, multiple: int) -> Tensor:
    """Zeros below and on the right, so that both sides are divisible. Zeros are the mean of standardized images."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


@leaf
def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear, ``(B, C, h, w) -> (B, C, *size)``."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
