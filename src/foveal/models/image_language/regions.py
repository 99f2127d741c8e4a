"""Regions as tokens: what a frozen network says of a box, and where the box is. As in LXMERT: the mean of two norms, each of a linear map."""

import torch
from torch import Tensor, nn

from ..._errors import InputError

__all__ = ["Placed", "RegionEmbedding", "check_regions"]

_EPS = 1e-12


class RegionEmbedding(nn.Module):
    """``(B, R, F)`` and boxes ``(B, R, 4)`` to ``(B, R, C)``."""

    def __init__(self, width: int, dim: int, drop: float) -> None:
        super().__init__()
        self.width = width
        self.features, self.features_norm = nn.Linear(width, dim), nn.LayerNorm(dim, eps=_EPS)
        self.boxes, self.boxes_norm = nn.Linear(6, dim), nn.LayerNorm(dim, eps=_EPS)
        self.drop = nn.Dropout(drop)

    def forward(self, regions: Tensor, boxes: Tensor) -> Tensor:
        check_regions(regions, boxes, self.width)
        return self.drop((self.features_norm(self.features(regions)) + self.boxes_norm(self.boxes(_where(boxes)))) / 2)


class Placed(nn.Module):
    """Features of regions as they are, ``(B, R, F)``; with ``boxes``, a linear map of where each is added to them."""

    def __init__(self, width: int, *, boxes: bool) -> None:
        super().__init__()
        self.width = width
        self.boxes = nn.Linear(6, width) if boxes else None

    def forward(self, regions: Tensor, boxes: Tensor) -> Tensor:
        check_regions(regions, boxes, self.width)
        return regions if self.boxes is None else regions + self.boxes(_where(boxes))


def _where(boxes: Tensor) -> Tensor:
    """With width and height, so that sizes need not be learned out of differences."""
    return torch.cat([boxes, boxes[..., 2:] - boxes[..., :2]], -1)


def check_regions(regions: Tensor, boxes: Tensor, width: int) -> None:
    """Refuse features that are not as many as boxes, or of another width.

    Raises:
        ValueError: they are.
    """
    if regions.ndim != 3 or regions.shape[-1] != width:
        raise InputError(f"expected features of regions (B, R, {width}), got {tuple(regions.shape)}")
    if boxes.shape != (*regions.shape[:2], 4):
        raise InputError(f"expected a box for each region, (B, R, 4) = {(*regions.shape[:2], 4)}, got {tuple(boxes.shape)}")
