"""DnA ViT: the vision transformer with denoising attention in every block, as its authors lay it out.

Paper      Campos et al., "DnA: Denoising Attention", ECCV 2026 (arXiv 2606.27372).
Official   rjccv/DnA ``vit/dna_models.py``
Formula    X ← X + A(LN X);  X ← X + MLP(LN X), A denoising attention
Differs    Positions are of the patches alone, the class token has none, as in the official code; timm's usual layout, a row more, is ``no_embed_class=False``.
           The official constant stochastic depth belongs to the training, not to the network: timm's ``drop_path_rate`` grows with depth.
Status     outputs and input gradients equal to the official model's; 100,741,240 parameters at base, as there
"""

from typing import Any

import torch
from torch import nn

from .._errors import InputError
from ..attention import config_from_dict
from ..attention._grid import set_grid
from ._patches import patch_grid
from .vit import VisionTransformer

__all__ = ["DenoisingViT"]


class DenoisingViT(VisionTransformer):
    """timm's ``VisionTransformer`` with denoising attention. Names, options and methods are timm's.

    Args:
        options: of the attention, as in ``DenoisingAttention.Config``: ``{"shared_values": True}``.
        no_embed_class: positions of the patches alone, the authors' layout; if False, of the class token as well, timm's.
        qkv_bias: bias of the projections in.
        vit: the options of timm's ``VisionTransformer``: ``img_size``, ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``, ``num_classes`` … ViT-B/16 if
            left out.

    Shape:
        ``(B, in_chans, H, W) -> (B, num_classes)``.

    Raises:
        ValueError: an unknown option of the attention; an ``attn_layer``, which is not to be chosen here.

    Example:
        >>> DenoisingViT(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=4, num_classes=7)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """

    def __init__(self, *, options: dict[str, Any] | None = None, no_embed_class: bool = True, qkv_bias: bool = True, **vit: Any) -> None:
        if "attn_layer" in vit:
            raise InputError("the attention of a DenoisingViT is denoising; give its options, or take foveal.models.VisionTransformer with attn_layer")
        prefix = int(vit.get("class_token", True)) + int(vit.get("reg_tokens", 0))
        config = config_from_dict({"attention": "denoising", **(options or {})})
        config = set_grid(config, prefix, None if vit.get("dynamic_img_size") else patch_grid(vit))
        super().__init__(no_embed_class=no_embed_class, qkv_bias=qkv_bias, attn_layer=config.layer(), **vit)

    @torch.no_grad()
    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """timm's, with the authors' class token."""
        super().init_weights(*args, **kwargs)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
