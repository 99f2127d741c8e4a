"""What a segmentation set looks like from outside."""

from dataclasses import dataclass

from .._bundle import DataBundle

__all__ = ["IGNORE", "SegmentationBundle"]

IGNORE = 255
"""In every mask of ours: nobody knows what this pixel is. Readers bring the marks of each set to it."""


@dataclass(frozen=True)
class SegmentationBundle(DataBundle):
    """Splits of ``(image (C, H, W) float, mask (H, W) int64)``. In training all images are ``img_size`` squares; otherwise sizes are the images' own."""

    palette: tuple[tuple[int, int, int], ...] = ()
    """Colors of classes; where there is none, PASCAL VOC's."""
    unscored: tuple[str, ...] = ()
    """Classes that are no part of the mean scores, such as background or clutter."""
    chance: float | None = None
    """Mean IoU of guessing, where that has a meaning."""
