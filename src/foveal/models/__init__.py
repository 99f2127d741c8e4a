"""The published hosts. So far the vision transformer."""

from .vit import SIZES, VisionTransformer, ViT, share_initial_weights_

__all__ = ["SIZES", "ViT", "VisionTransformer", "share_initial_weights_"]
