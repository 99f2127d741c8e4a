"""Efficient attention as layers, on tokens and on maps; see :mod:`foveal.functional.efficient` for the mathematics, the paper and what differs from it.

Shapes     B batch, N tokens, C channels, H heads in ``(B, H, N, D)`` and height in ``(B, C, H, W)``, D width per head
"""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .._errors import InputError, unknown
from ..functional import efficient_attention, efficient_attention_map
from ..functional._summary import check_chunk
from ..functional.efficient import EfficientNorm
from ._base import NormLayer, QKVAttention, timm_half
from ._core import register_core
from ._registry import AttentionConfig, register
from ._summary import SummaryAttention2d, SummaryCore, from_pixels
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new

__all__ = ["EfficientAttention", "EfficientAttention2d", "EfficientCore"]


def _check_norm(normalization: str, width: int) -> None:
    if normalization not in get_args(EfficientNorm):
        raise unknown("normalization of efficient attention", normalization, get_args(EfficientNorm))
    if normalization == "softmax" and width == 1:
        raise InputError(
            "efficient attention needs keys of at least 2 channels per head, got 1: the softmax over one channel is 1, and all positions get the same output; "
            'give fewer heads, wider keys, or normalization="scaling"'
        )


@register_core("efficient")
class EfficientCore(SummaryCore):
    """Tokens meet through a summary with one row for each channel of the keys."""

    def __init__(self, head_dim: int, *, normalization: EfficientNorm = "softmax", chunk: int | None = None, device: Any = None, dtype: Any = None) -> None:
        super().__init__(head_dim)
        _check_norm(normalization, head_dim)
        check_chunk(chunk)
        self.normalization: EfficientNorm = normalization
        self.chunk = chunk

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        return efficient_attention(q, k, v, mask=mask, dropout_p=dropout_p, scale=scale, normalization=self.normalization, chunk=self.chunk)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return efficient_attention_map(q, k, mask=mask, normalization=self.normalization)

    def extra_repr(self) -> str:
        return f"normalization={self.normalization!r}, chunk={self.chunk}"


@register("efficient", family="summary")
class EfficientAttention(QKVAttention):
    """Multi-head efficient attention, linear in the number of tokens. Its weights are timm's ``Attention``'s, name for name; its map is another.

    Each channel of the keys is one map over all tokens, shared by all queries; a query only chooses its mixture of these D maps. It is cheaper than softmax
    attention from about N = D tokens on, and weaker where every query must find a key of its own.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per head.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on what a query takes from each row of the summary, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.
        normalization: ``"softmax"`` or ``"scaling"``, see :data:`~foveal.functional.efficient.EfficientNorm`.
        chunk: tokens that are read at a time; all if None. Same result, less memory.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; a head of width 1 under ``softmax``; an unknown normalization;
            ``chunk`` below 1. In ``forward``: causality; a mask per query, or under ``scaling`` of other floats than 0 and -inf.

    Example:
        >>> EfficientAttention(dim=64, num_heads=4)(torch.randn(2, 196, 64)).shape
        torch.Size([2, 196, 64])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        normalization: EfficientNorm = "softmax"
        chunk: int | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: NormLayer | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        attn_head_dim: int | None = None,
        normalization: EfficientNorm = "softmax",
        chunk: int | None = None,
    ) -> None:
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core="efficient",
            core_options={"normalization": normalization, "chunk": chunk},
        )

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        return rest_is_new(self, adopt_layers(self, place))


@register("efficient_2d", family="summary", form="2d")
class EfficientAttention2d(SummaryAttention2d):
    """The efficient attention block of the paper, to stand where a non-local block stands: 1×1 convolutions around the mixing of pixels, and a residual.

    Args:
        channels: C.
        key_channels: width of queries and keys over all heads; ``channels / 2`` if None, the authors' choice.
        value_channels: width of the values over all heads; ``channels`` if None. The output has ``channels`` whatever it is.
        num_heads: heads; must divide both widths. 1 is the paper.
        normalization: ``"softmax"`` or ``"scaling"``, see :data:`~foveal.functional.efficient.EfficientNorm`.
        residual: add the input.
        gamma_init: start of a factor ``gamma`` on the branch; no factor if None, as in the paper. 0 makes the block the identity, for a pretrained host.
        chunk: pixels that are read at a time; all if None. Same result, less memory.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, any H and W; channels-last stays channels-last.

    Raises:
        ValueError: ``num_heads`` does not divide a width; keys of width 1 per head under ``softmax``; an unknown normalization; ``chunk`` below 1.

    Example:
        >>> EfficientAttention2d(32, num_heads=4)(torch.randn(2, 32, 7, 9)).shape
        torch.Size([2, 32, 7, 9])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        key_channels: int | None = None
        value_channels: int | None = None
        num_heads: int = 1
        normalization: EfficientNorm = "softmax"
        residual: bool = True
        gamma_init: float | None = None
        chunk: int | None = None

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        *,
        key_channels: int | None = None,
        value_channels: int | None = None,
        normalization: EfficientNorm = "softmax",
        residual: bool = True,
        gamma_init: float | None = None,
        chunk: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        key_channels = channels // 2 if key_channels is None else key_channels
        value_channels = channels if value_channels is None else value_channels
        super().__init__(channels, key_channels, value_channels, num_heads, residual=residual, chunk=chunk, **factory)
        _check_norm(normalization, key_channels // num_heads)
        self.normalization: EfficientNorm = normalization
        self.proj = nn.Conv2d(value_channels, channels, 1, **factory)
        self.gamma_init = gamma_init
        self.gamma = None if gamma_init is None else nn.Parameter(torch.empty(1, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``gamma`` back to ``gamma_init``; the convolutions keep what they, or the host, set."""
        if self.gamma is not None and self.gamma_init is not None:
            nn.init.constant_(self.gamma, self.gamma_init)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out = self.proj(from_pixels(self._mixed(x, mask), x))
        if self.gamma is not None:
            out = self.gamma.to(out.dtype) * out
        return x + out if self.residual else out

    def _mixed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """By itself, so that queries, keys and values are gone before the projection asks for memory."""
        q, k, v, mask = self._read(x, mask)
        return efficient_attention(q, k, v, mask=mask, normalization=self.normalization, chunk=self.chunk)

    def attention_map(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """``combined``: the implied map from pixels to pixels, ``(B, num_heads, H·W, H·W)``. Applied to the values it gives the input of ``proj``."""
        q, k, _, mask = self._read(x, mask)
        return {"combined": efficient_attention_map(q, k, mask=mask, normalization=self.normalization)}

    def _gathers(self, k: Tensor) -> Tensor:
        wide = k.float() if k.dtype in (torch.float16, torch.bfloat16) else k
        return wide.softmax(dim=-2) if self.normalization == "softmax" else wide / k.shape[-2]

    def extra_repr(self) -> str:
        return super().extra_repr() + f", normalization={self.normalization!r}"

    def _macs_per_pixel(self) -> int:
        return super()._macs_per_pixel() + self.value_channels * self.channels
