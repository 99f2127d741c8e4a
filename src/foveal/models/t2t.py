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
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._errors import InputError, unknown
from ..attention import AttentionConfig, CrossSampleAttention, ExternalAttention, config_from_dict
from ..attention._grid import check_grid, on_grid, tell_grid_
from ._mlp import Mlp
from .vit import VisionTransformer

__all__ = ["T2T", "T2T_SIZES", "T2TSize", "T2TViT", "TokenBlock", "TokensToTokens", "eamlp", "sinusoidal_positions"]

T2TSize = Literal["7", "14", "19"]

_PATCH = 16
_WINDOWS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Side, stride and padding of the windows of each step."""


@dataclass(frozen=True)
class _Dial:
    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float


T2T_SIZES: dict[str, _Dial] = {"7": _Dial(256, 7, 4, 2.0), "14": _Dial(384, 14, 6, 3.0), "19": _Dial(448, 19, 7, 3.0)}
"""The published sizes, by depth."""


class _OfReadyQueries(ExternalAttention):
    """External attention of a token block: one head, whose queries are the tokens as they come."""

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, num_heads=1, **options | {"bias": True})
        self.q = nn.Identity()  # type: ignore[assignment]
        # it would cancel in the softmax over tokens; the authors have none here
        self.memory.bias_k = None

    def macs(self, num_tokens: int) -> int:
        return super().macs(num_tokens) - num_tokens * self.dim**2


class TokenBlock(nn.Module):
    """Attention that narrows its tokens, and an MLP: ``(B, N, in_dim) -> (B, N, dim)``.

    Args:
        in_dim: width of the tokens that come, of a window.
        dim: width of those that go.
        attention: what mixes them, in one head.
        drop: dropout on the map and on the output of the attention, in training.
        mlp_ratio: hidden width of the MLP over ``dim``.
        qkv_bias: bias of the projection that narrows, where it is the attention's own; a ``reduce`` always has one.
        norm_eps: of both norms.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        attention: AttentionConfig,
        *,
        drop: float = 0.0,
        mlp_ratio: float = 1.0,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        options = {"attn_drop": drop, "proj_drop": drop, **factory}
        self.dim = dim
        self.norm1 = nn.LayerNorm(in_dim, eps=norm_eps, **factory)
        self.reduce: nn.Linear | None = None
        # cross-sample attention fuses its streams at the width that its dictionary has
        if hasattr(attention, "attn_head_dim") and not isinstance(attention, CrossSampleAttention.Config):
            if attention.attn_head_dim not in (None, dim):
                raise InputError(
                    f"the head of a token block is as wide as its tokens, {dim}, got attn_head_dim={attention.attn_head_dim}; give token_dim instead"
                )
            inner = config_from_dict(attention.to_dict() | {"attn_head_dim": dim})
            self.attn = inner.build(in_dim, num_heads=1, qkv_bias=qkv_bias, **options)
            self.attn.proj = nn.Linear(dim, dim, **factory)
        else:
            self.reduce = nn.Linear(in_dim, dim, **factory)
            if isinstance(attention, ExternalAttention.Config):
                if attention.expand != 1:
                    raise InputError(f"in a token block the tokens are the queries, so expand must be 1, got {attention.expand}; leave it to the backbone")
                self.attn = _OfReadyQueries(dim, **attention.options(), **options)
            else:
                self.attn = attention.build(dim, num_heads=1, qkv_bias=qkv_bias, **options)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, **factory)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **factory)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        if self.reduce is None:
            x = self.attn.values(x) + self.attn(x)
        else:
            x = self.reduce(x)
            x = x + self.attn(x)
        return x + self.mlp(self.norm2(x))


class TokensToTokens(nn.Module):
    """Images to tokens in three steps of overlapping windows, with an attention after each of the first two; takes the place of timm's ``PatchEmbed``.

    Args:
        img_size: size that images must have, unless ``strict_img_size`` is False.
        patch_size: pixels of a token's side, 16.
        in_chans: channels of the images.
        embed_dim: C, width of the tokens that go.
        token_dim: width in the token blocks.
        attention: what mixes tokens in the blocks.
        drop: dropout of the blocks' attentions, in training.
        strict_img_size: refuse images of another size.
        output_fmt: ``"NHWC"`` leaves tokens on their grid.
        bias: bias of the last linear map.

    Shape:
        ``(B, in_chans, H, W) -> (B, N, C)``, or ``(B, rows, columns, C)``.

    Raises:
        ValueError: another patch size than 16; images of another shape, size or dtype.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = _PATCH,
        in_chans: int = 3,
        embed_dim: int = 384,
        *,
        attention: AttentionConfig,
        token_dim: int = 64,
        drop: float = 0.0,
        strict_img_size: bool = True,
        output_fmt: str | None = None,
        dynamic_img_pad: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        assert not dynamic_img_pad, "T2TViT does not offer it: windows reach over the border already"
        factory = {"device": device, "dtype": dtype}
        self.in_chans, self.strict_img_size, self.on_grid = in_chans, strict_img_size, output_fmt == "NHWC"
        self.grad_checkpointing = False
        self._take_size(img_size, patch_size)
        widths = [in_chans * _WINDOWS[0][0] ** 2, *(token_dim * side**2 for side, _, _ in _WINDOWS[1:])]
        grids = [None if not strict_img_size else _grids(self.img_size)[step] for step in range(2)]
        self.attention1, self.attention2 = (
            TokenBlock(width, token_dim, on_grid(attention, 0, grid), drop=drop, **factory) for width, grid in zip(widths[:2], grids, strict=True)
        )
        self.project = nn.Linear(widths[2], embed_dim, bias=bias, **factory)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_chans or not x.is_floating_point():
            raise InputError(f"T2T-ViT expects (B, C, H, W) with C={self.in_chans} in floating point, got {tuple(x.shape)} of {x.dtype}")
        size = (x.shape[2], x.shape[3])
        if self.strict_img_size and size != self.img_size:
            height, width = self.img_size
            remedy = "resize them, call set_input_size, or build with dynamic_img_size=True"
            raise InputError(f"this T2T-ViT is for images of {height}×{width}, got {size[0]}×{size[1]}; {remedy}")
        grids = _grids(size)
        for grid, window, block in zip(grids, _WINDOWS, (self.attention1, self.attention2, self.project), strict=True):
            x = _windows(x, window)
            if isinstance(block, TokenBlock):
                check_grid(block.attn, grid)
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
            if block is not self.project:
                x = rearrange(x, "b (h w) c -> b c h w", h=grid[0])
        return x.unflatten(1, grids[-1]) if self.on_grid else x

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None) -> None:
        """Expect images of another size; positions are the host's to resample."""
        self._take_size(img_size, patch_size)
        for block, grid in zip((self.attention1, self.attention2), _grids(self.img_size), strict=False):
            tell_grid_(block, grid)

    def _take_size(self, img_size: int | tuple[int, int] | None, patch_size: int | tuple[int, int] | None) -> None:
        if patch_size not in (None, _PATCH, (_PATCH, _PATCH)):
            raise InputError(f"the windows of T2T-ViT make patches of {_PATCH}×{_PATCH} pixels, got patch_size={patch_size}; leave it out")
        if img_size is not None:
            self.patch_size = (_PATCH, _PATCH)
            self.img_size = _pair(img_size)
            self.grid_size = _grids(self.img_size)[-1]
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """The token blocks have sixteen and four times as many tokens as the backbone: most of the memory is theirs."""
        self.grad_checkpointing = enable

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        return _PATCH if as_scalar else (_PATCH, _PATCH)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        return _grids(img_size)[-1]


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
            patch_size=_PATCH,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            norm_layer=partial(nn.LayerNorm, eps=norm_eps),
            embed_layer=embed,
            attn_layer=on_grid(config, 1, None if dynamic_img_size else _grids(_pair(img_size))[-1]).layer(),
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


def _grids(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns after each step."""
    if min(size) < 1:
        raise InputError(f"T2T-ViT expects images of at least 1×1 pixels, got {size[0]}×{size[1]}")
    grids = []
    for side, stride, padding in _WINDOWS:
        size = ((size[0] + 2 * padding - side) // stride + 1, (size[1] + 2 * padding - side) // stride + 1)
        if min(size) < 1:
            raise InputError("an image of this size has no window of 7×7 pixels; T2T-ViT expects at least 3×3 pixels, better 16×16 a token")
        grids.append(size)
    return grids


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _windows(x: Tensor, window: tuple[int, int, int]) -> Tensor:
    """Every window as a token, ``(B, C, H, W) -> (B, windows, C · side²)``."""
    side, stride, padding = window
    return F.unfold(x, side, stride=stride, padding=padding).transpose(1, 2)
