"""Images to tokens in steps of overlapping windows, for :mod:`foveal.models.t2t`, which has the paper, the formula and what differs from them."""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._errors import InputError
from .._fx import Leaf
from ..attention import AttentionConfig, ExternalAttention, attention_class, config_from_dict
from ..attention._grid import check_grid, set_grid, set_grid_
from ._mlp import Mlp

__all__ = ["PATCH", "TokenBlock", "TokensToTokens", "grids_of"]

PATCH = 16
"""Side of what becomes a token, in pixels."""
_WINDOWS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Side, stride and padding of the windows of each step."""


class _OfReadyQueries(ExternalAttention):
    """External attention of a token block: one head, whose queries are the tokens as they come."""

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, num_heads=1, **options | {"bias": True})
        self.q = nn.Identity()  # type: ignore[assignment]
        # it would cancel in the softmax over tokens; the authors have none here
        self.memory.bias_k = None

    def reset_parameters(self) -> None:
        """There is no map to queries."""

    def macs(self, num_tokens: int) -> int:
        return super().macs(num_tokens) - num_tokens * self.dim**2


class TokenBlock(Leaf):
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
        if hasattr(attention, "attn_head_dim") and not attention_class(attention.attention).fuses_streams:
            if attention.attn_head_dim not in (None, dim):
                raise InputError(
                    f"the head of a token block is as wide as its tokens, {dim}, got attn_head_dim={attention.attn_head_dim}; give token_dim instead"
                )
            inner = config_from_dict(attention.to_dict() | {"attn_head_dim": dim})
            self.attn: Any = inner.build(in_dim, num_heads=1, qkv_bias=qkv_bias, **options)
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


class TokensToTokens(Leaf):
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
        patch_size: int = PATCH,
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
        grids = [None if not strict_img_size else grids_of(self.img_size)[step] for step in range(2)]
        self.attention1, self.attention2 = (
            TokenBlock(width, token_dim, set_grid(attention, 0, grid), drop=drop, **factory) for width, grid in zip(widths[:2], grids, strict=True)
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
        grids = grids_of(size)
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
        for block, grid in zip((self.attention1, self.attention2), grids_of(self.img_size), strict=False):
            set_grid_(block, grid)

    def _take_size(self, img_size: int | tuple[int, int] | None, patch_size: int | tuple[int, int] | None) -> None:
        if patch_size not in (None, PATCH, (PATCH, PATCH)):
            raise InputError(f"the windows of T2T-ViT make patches of {PATCH}×{PATCH} pixels, got patch_size={patch_size}; leave it out")
        if img_size is not None:
            self.patch_size = (PATCH, PATCH)
            self.img_size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
            self.grid_size = grids_of(self.img_size)[-1]
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """The token blocks have sixteen and four times as many tokens as the backbone: most of the memory is theirs."""
        self.grad_checkpointing = enable

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        return PATCH if as_scalar else (PATCH, PATCH)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        return grids_of(img_size)[-1]


def grids_of(size: tuple[int, int]) -> list[tuple[int, int]]:
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


def _windows(x: Tensor, window: tuple[int, int, int]) -> Tensor:
    """Every window as a token, ``(B, C, H, W) -> (B, windows, C · side²)``."""
    side, stride, padding = window
    return F.unfold(x, side, stride=stride, padding=padding).transpose(1, 2)
