"""The linear attention mechanism as layers, on tokens, on the pixels and on the channels of maps; see :mod:`foveal.functional.linear` for the mathematics,
the paper and what differs from it.

Shapes     B batch, N tokens, C channels, H heads in ``(B, H, N, D)`` and height in ``(B, C, H, W)``, D width per head
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from ..functional import channel_linear_attention, channel_linear_attention_map, linear_attention, linear_attention_map
from ..functional._summary import check_chunk
from ..functional.linear import _direction
from ._base import Cost, NormLayer, QKVAttention, check_maps, is_channels_last, timm_half
from ._core import register_core
from ._feature_map import FeatureMapAttention
from ._registry import AttentionConfig, register
from ._summary import SummaryAttention2d, SummaryCore, from_pixels
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new

__all__ = ["ChannelLinearAttention2d", "LinearAttention", "LinearAttention2d", "LinearCore"]


@register_core("linear")
class LinearCore(SummaryCore):
    """Tokens meet through their mean and a correction, with weights 1 + cos(q, k)."""

    def __init__(self, head_dim: int, *, eps: float = 0.0, chunk: int | None = None, device: Any = None, dtype: Any = None) -> None:
        super().__init__(head_dim)
        check_chunk(chunk)
        self.eps, self.chunk = eps, chunk

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        return linear_attention(q, k, v, mask=mask, dropout_p=dropout_p, scale=scale, eps=self.eps, chunk=self.chunk)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return linear_attention_map(q, k, mask=mask, eps=self.eps)

    def macs(self, num_tokens: int, num_heads: int) -> int:
        return super().macs(num_tokens, num_heads) + num_tokens * num_heads * self.head_dim

    def extra_repr(self) -> str:
        return f"eps={self.eps}, chunk={self.chunk}"


@register("linear", family="summary")
class LinearAttention(QKVAttention):
    """Multi-head linear attention with weights 1 + cos(q, k). Its weights are timm's ``Attention``'s, name for name; its map is another.

    An output is a convex combination of the values in which no weight exceeds 2 / (N (1 + q̂ · k̄)): the mean of all tokens and a correction. It gathers
    context; what one token holds arrives diluted by N. Heads and the projection behind are ours; the paper's form is :class:`LinearAttention2d`.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per head, before their length is divided out.
        scale_norm: normalize before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on what a query takes from each row of the summary, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.
        eps: added to each component of the sum of key directions. 0 is the paper, the official code has 1e-6.
        chunk: tokens that are read at a time; all if None. Same result, less memory.

    Shape:
        ``(B, N, dim) -> (B, N, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; ``chunk`` below 1. In ``forward``: causality; a mask per query or
            of other floats than 0 and -inf.

    Example:
        >>> LinearAttention(dim=64, num_heads=4)(torch.randn(2, 196, 64)).shape
        torch.Size([2, 196, 64])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        eps: float = 0.0
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
        eps: float = 0.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core="linear",
            core_options={"eps": eps, "chunk": chunk},
        )

    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        return rest_is_new(self, adopt_layers(self, place))


@register("linear_2d", family="summary", form="2d")
class LinearAttention2d(SummaryAttention2d):
    """The paper's position attention: pixels meet, the result is added with a factor ``gamma`` that starts at 0.

    Args:
        channels: C.
        key_channels: width of queries and keys over all heads; ``channels / 8``, and at least 1, if None: the authors' choice.
        num_heads: heads; must divide both ``channels`` and ``key_channels``. 1 is the paper.
        residual: add the input. Without it the output is ``gamma`` times the attention.
        gamma_init: start of ``gamma``; at 0 the block is the identity, and ``gamma`` alone gets a gradient at first.
        eps: see :class:`LinearAttention`.
        chunk: pixels that are read at a time; all if None. Same result, less memory.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, any H and W; channels-last stays channels-last.

    Raises:
        ValueError: ``num_heads`` does not divide a width; ``chunk`` below 1.

    Example:
        >>> LinearAttention2d(32)(torch.randn(2, 32, 7, 9)).shape
        torch.Size([2, 32, 7, 9])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        key_channels: int | None = None
        num_heads: int = 1
        residual: bool = True
        gamma_init: float = 0.0
        eps: float = 0.0
        chunk: int | None = None

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        *,
        key_channels: int | None = None,
        residual: bool = True,
        gamma_init: float = 0.0,
        eps: float = 0.0,
        chunk: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        # officially fewer than 8 channels make a convolution without outputs
        key_channels = max(1, channels // 8) if key_channels is None else key_channels
        super().__init__(channels, key_channels, channels, num_heads, residual=residual, chunk=chunk, **factory)
        self.eps, self.gamma_init = eps, gamma_init
        self.gamma = nn.Parameter(torch.empty(1, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``gamma`` back to ``gamma_init``; the convolution keeps what it, or the host, set."""
        nn.init.constant_(self.gamma, self.gamma_init)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, mask = self._read(x, mask)
        out = from_pixels(linear_attention(q, k, v, mask=mask, eps=self.eps, chunk=self.chunk), x)
        out = self.gamma.to(out.dtype) * out
        return x + out if self.residual else out

    def attention_map(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """``combined``: the implied map from pixels to pixels, ``(B, num_heads, H·W, H·W)``. Applied to the values it gives what ``gamma`` multiplies."""
        q, k, _, mask = self._read(x, mask)
        return {"combined": linear_attention_map(q, k, mask=mask, eps=self.eps)}

    def _gathers(self, k: Tensor) -> Tensor:
        return _direction(k.float() if k.dtype in (torch.float16, torch.bfloat16) else k)

    def _macs_per_pixel(self) -> int:
        return super()._macs_per_pixel() + self.key_channels


@register("linear_channel_2d", family="summary", form="2d")
class ChannelLinearAttention2d(FeatureMapAttention):
    """The paper's channel attention: channels meet, without projections; the result is added with a factor ``gamma`` that starts at 0.

    Args:
        channels: C; any number is taken if None, and the cost is unknown then. No weight depends on it.
        legacy: the operator of the official code, which is not the paper's; see the head of :mod:`foveal.functional.linear`.
        residual: add the input. Without it the output is ``gamma`` times the attention.
        gamma_init: start of ``gamma``.
        eps: added to the legacy sum over channels; the official code has 1e-6.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, any H and W; channels-last stays channels-last.

    Raises:
        ValueError: ``eps`` without ``legacy``; wrong number of channels; a map or cost that is not there.

    Example:
        >>> ChannelLinearAttention2d(32)(torch.randn(2, 32, 7, 9)).shape
        torch.Size([2, 32, 7, 9])
    """

    of_channels = True

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        legacy: bool = False
        residual: bool = True
        gamma_init: float = 0.0
        eps: float = 0.0

    def __init__(
        self,
        channels: int | None = None,
        *,
        legacy: bool = False,
        residual: bool = True,
        gamma_init: float = 0.0,
        eps: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(channels)
        if eps and not legacy:
            raise InputError(f"eps belongs to the legacy channel operator, the correct one divides by nothing small; got eps={eps}, give 0 or legacy=True")
        self.legacy, self.residual, self.gamma_init, self.eps = legacy, residual, gamma_init, eps
        self.gamma = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``gamma`` back to ``gamma_init``."""
        nn.init.constant_(self.gamma, self.gamma_init)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H, W)``."""
        out = channel_linear_attention(self._channels(x), legacy=self.legacy, eps=self.eps)
        out = self.gamma.to(x.dtype) * rearrange(out, "b 1 c (y x) -> b c y x", y=x.shape[-2], x=x.shape[-1])
        if is_channels_last(x):
            out = out.contiguous(memory_format=torch.channels_last)
        return x + out if self.residual else out

    def attention_map(self, x: Tensor) -> dict[str, Tensor]:
        """``combined``: from channels to channels, ``(B, 1, C, C)``, rows sum to one. Applied to the channels it gives what ``gamma`` multiplies.

        Raises:
            ValueError: the module is legacy, whose output no map of channels gives.
        """
        if self.legacy:
            raise InputError("the legacy channel operator is no map applied to the channels; build ChannelLinearAttention2d with legacy=False to look at one")
        return {"combined": channel_linear_attention_map(self._channels(x))}

    def cost(self, height: int, width: int) -> Cost:
        """Parameters, and multiply-adds for one sample of that size.

        Raises:
            ValueError: the module was built for any number of channels.
        """
        if self.channels is None:
            raise InputError("the cost of ChannelLinearAttention2d grows with the channels, and this one was built for any number; give channels")
        return Cost(parameters=1, macs=2 * height * width * self.channels**2)

    def no_weight_decay(self) -> set[str]:
        return {"gamma"}

    def extra_repr(self) -> str:
        return f"channels={self.channels}, legacy={self.legacy}"

    def _channels(self, x: Tensor) -> Tensor:
        channels = x.shape[1] if self.channels is None and x.ndim > 1 else self.channels or 0
        check_maps(type(self).__name__, x, channels)
        return rearrange(x, "b c y x -> b 1 c (y x)")
