"""T2T-ViT, a vision transformer whose patches are made in steps, with any token attention in the steps and in the backbone; EAMLP is one setting of it.

Paper      Yuan et al., "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet", ICCV 2021 (arXiv 2101.11986), Sec. 3.
           EAMLP: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks" (arXiv 2105.02358), Sec. 4.
Official   yitu-opensource/T2T-ViT; MenghaoGuo/EANet ``EAMLP/``, where external attention goes by the old names ``Token_performer``, ``Attention``
Formula    windows 7×7 stride 4 → token block → windows 3×3 stride 2 → token block → windows 3×3 stride 2 → linear to C:  a patch of 16×16 pixels
           token block   y = W · LN x;  y ← y + A(y);  y ← y + MLP(LN y)
           For attentions of queries, keys and values W is their own projection, and y what it makes of x as values (T2T-ViT). For external attention W is
           the projection of the queries (EAMLP). Others get a W of their own.
Differs    "EA" in the paper's tables means external attention in the token blocks only; "EAMLP" means in the backbone as well, four times as wide as the
           paper's multi-head form. The memory of an official token block has a bias on the values alone, and so it has here.
           The performer, a random-feature softmax that is T2T-ViT's other token block, is not among our attentions. What EANet calls "performer" and
           "transformer" is external attention in both, with dropout 0.1 and 0.
Status     EAMLP: outputs and input gradients equal to the official model's; parameter counts equal to the official ones

Shapes     B batch, N tokens, C channels, S slots
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError, unknown
from ..attention import ExternalAttention, config_from_dict
from ..attention._grid import set_grid
from ._tokens import PATCH, TokensToTokens, grids_of
from .vit import VisionTransformer, pair

__all__ = ["T2T", "T2T_SIZES", "T2TSize", "T2TViT", "eamlp", "sinusoidal_positions"]

T2TSize = Literal["7", "14", "19"]


@dataclass(frozen=True)
class _Dial:
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float


T2T_SIZES: dict[str, _Dial] = {"7": _Dial(256, 7, 4, 2.0), "14": _Dial(384, 14, 6, 3.0), "19": _Dial(448, 19, 7, 3.0)}
"""The published sizes, by depth."""


class T2TViT(VisionTransformer):
    """timm's ``VisionTransformer`` behind tokens-to-tokens, with fixed sinusoidal positions. Names and methods are timm's.

    Args:
        attention: name of the attention in the backbone.
        options: its options, as in its ``Config``.
        token_attention: name of the attention in the token blocks.
        token_options: its options.
        img_size: size of the images, any; T2T-ViT has a token for each 16×16 pixels.
        in_chans: channels of the images.
        num_classes: classes; 0 for features.
        embed_dim: C, width of the backbone.
        depth: blocks of the backbone.
        num_heads: heads of the backbone.
        mlp_ratio: hidden width of the backbone's MLPs over C.
        token_dim: width in the token blocks.
        token_drop: dropout of their attentions, in training.
        qkv_bias: bias of the projections in, of the backbone.
        norm_eps: of all norms.
        dynamic_img_size: take images of any size, with positions resampled.
        vit: more options of timm's ``VisionTransformer``: ``drop_path_rate``, ``drop_rate``, ``device``, ``dtype`` …

    Shape:
        ``(B, in_chans, H, W) -> (B, num_classes)``.

    Raises:
        ValueError: an unknown attention or option, one that does not fit a token block; images of another shape, size or dtype.

    Example:
        >>> model = T2TViT(attention="denoising", img_size=32, embed_dim=48, depth=2, num_heads=4, token_dim=16, num_classes=7)
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """

    def __init__(
        self,
        *,
        attention: str = "softmax",
        options: dict[str, Any] | None = None,
        token_attention: str = "softmax",
        token_options: dict[str, Any] | None = None,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        token_dim: int = 64,
        token_drop: float = 0.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        dynamic_img_size: bool = False,
        **vit: Any,
    ) -> None:
        for option in ("patch_size", "embed_layer", "attn_layer", "pos_embed", "no_embed_class", "reg_tokens", "class_token", "dynamic_img_pad", "norm_layer"):
            if option in vit:
                raise InputError(f"{option} cannot be chosen in a T2T-ViT; see the options of T2TViT")
        token_config = config_from_dict({"attention": token_attention, **(token_options or {})})
        config = config_from_dict({"attention": attention, **(options or {})})
        embed = partial(TokensToTokens, attention=token_config, token_dim=token_dim, drop=token_drop)
        super().__init__(
            img_size=img_size,
            patch_size=PATCH,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            norm_layer=partial(nn.LayerNorm, eps=norm_eps),
            embed_layer=embed,
            attn_layer=set_grid(config, 1, None if dynamic_img_size else grids_of(pair(img_size))[-1]).layer(),
            dynamic_img_size=dynamic_img_size,
            **vit,
        )

    @torch.no_grad()
    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """timm's, with the authors' class token and positions. Positions are parameters that do not learn: they are saved, counted and resampled as others."""
        super().init_weights(*args, **kwargs)
        assert self.cls_token is not None, "T2TViT has no option to leave it out"
        assert self.pos_embed is not None, "T2TViT has no option to leave them out"
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, ExternalAttention):
                # as all linear maps of the authors
                nn.init.trunc_normal_(module.q.weight, std=0.02)
        self.pos_embed.copy_(sinusoidal_positions(self.pos_embed.shape[1], self.embed_dim))
        self.pos_embed.requires_grad_(False)


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Fixed positions, ``(1, length, dim)``: channels 2i and 2i + 1 of row n are sin and cos of n / 10000^(2i / dim)."""
    rate = 10000.0 ** (-2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos()).unsqueeze(0).float()


@dataclass(frozen=True, kw_only=True)
class T2T:
    """What to build: one of the published sizes, with any attention in the backbone and in the token blocks."""

    size: T2TSize = "14"
    attention: str = "softmax"
    options: dict[str, Any] | None = None
    """Options of the attention in the backbone, as in its ``Config``."""
    token_attention: str = "softmax"
    token_options: dict[str, Any] | None = None
    qkv_bias: bool = False
    token_dim: int = 64
    token_drop: float = 0.0
    drop_path: float = 0.1

    def build(self, *, img_size: int | tuple[int, int] = 224, in_chans: int = 3, num_classes: int = 1000, device: Any = None, dtype: Any = None) -> T2TViT:
        """The model.

        Raises:
            ValueError: an unknown size, attention or option.
        """
        if self.size not in T2T_SIZES:
            raise unknown("size of T2T-ViT", self.size, T2T_SIZES)
        dial = T2T_SIZES[self.size]
        return T2TViT(
            attention=self.attention,
            options=self.options,
            token_attention=self.token_attention,
            token_options=self.token_options,
            img_size=img_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=dial.dim,
            depth=dial.depth,
            num_heads=dial.num_heads,
            mlp_ratio=dial.mlp_ratio,
            token_dim=self.token_dim,
            token_drop=self.token_drop,
            qkv_bias=self.qkv_bias,
            drop_path_rate=self.drop_path,
            device=device,
            dtype=dtype,
        )


def eamlp(size: T2TSize = "14", *, token_drop: float = 0.1, drop_path: float = 0.1) -> T2T:
    """EAMLP as released: external attention with 128 slots in the token blocks; in the backbone with 64 slots, biases, and four times as many heads.

    Example:
        >>> model = eamlp("7").build(img_size=224, in_chans=3, num_classes=1000)
        >>> sum(p.numel() for p in model.parameters())
        6146638
    """
    return T2T(
        size=size,
        attention="external",
        options={"slots": 64, "expand": 4, "bias": True},
        token_attention="external",
        token_options={"slots": 128},
        qkv_bias=True,
        token_drop=token_drop,
        drop_path=drop_path,
    )
