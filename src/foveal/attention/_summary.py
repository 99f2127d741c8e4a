"""What layers of the summary family share: a core without causality, and feature maps whose pixels are tokens.

Shapes     B batch, N tokens, C channels, H heads in ``(B, H, N, D)`` and height in ``(B, C, H, W)``, D width per head
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from .._renamed import renamed_attribute
from ..functional._summary import check_chunk
from ._base import Cost, check_maps, is_channels_last
from ._core import Core
from ._feature_map import FeatureMapAttention

__all__ = ["SummaryAttention2d", "SummaryCore", "from_pixels", "to_pixels"]


class SummaryCore(Core):
    """All queries read one summary of the keys: a mask can leave out keys, and nothing can be causal."""

    only_whole = "every query reads one summary of all keys"
    chunk: int | None

    def macs(self, num_tokens: int, num_heads: int) -> int:
        return 2 * num_tokens * num_heads * self.head_dim**2


class SummaryAttention2d(FeatureMapAttention):
    """Attention on feature maps whose queries, keys and values come from one 1×1 convolution ``qkv``, in this order of its channels.

    Raises:
        ValueError: a width below 1, or one that ``num_heads`` does not divide; ``chunk`` below 1.
    """

    old_names: ClassVar[dict[str, str]] = {"head_count": "num_heads"}
    head_count = renamed_attribute("attention on feature maps", "head_count", "num_heads", silent=True)

    def __init__(
        self, channels: int, key_channels: int, value_channels: int, num_heads: int, *, residual: bool, chunk: int | None, device: Any, dtype: Any
    ) -> None:
        widths = {"channels": channels, "key_channels": key_channels, "value_channels": value_channels, "num_heads": num_heads}
        if min(widths.values()) < 1:
            raise InputError(f"{type(self).__name__} needs widths of at least 1, got " + ", ".join(f"{key}={value}" for key, value in widths.items()))
        for what, width in (("key_channels", key_channels), ("value_channels", value_channels)):
            if width % num_heads:
                nearest = num_heads * max(1, round(width / num_heads))
                raise InputError(f"num_heads must divide {what}, got {what}={width} and num_heads={num_heads}; try {what}={nearest}")
        check_chunk(chunk)
        super().__init__(channels, num_heads)
        self.channels: int = channels
        self.key_channels, self.value_channels = key_channels, value_channels
        self.residual, self.chunk = residual, chunk
        self.qkv = nn.Conv2d(channels, 2 * key_channels + value_channels, 1, device=device, dtype=dtype)

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: maps, ``(B, C, H, W)``.
            mask: bool, ``(B, H, W)``, True where a pixel takes part. Nothing is taken from others; what they get themselves is of no use.

        Returns:
            ``(B, C, H, W)``.

        Raises:
            ValueError: wrong number of channels or dtype; a mask of another shape or dtype.
        """

    @abstractmethod
    def _gathers(self, k: Tensor) -> Tensor:
        """With what weight each channel of the summary gathers every pixel, ``(B, H, N, D)`` as the keys."""

    def summary_maps(self, x: Tensor) -> Tensor:
        """With what weight each channel of the keys gathers every pixel, ``(B, key_channels, H, W)``: all queries read these, and choose among them alone.

        It is linear in pixels, and can be drawn over an image of any size.
        """
        _, k, _, _ = self._read(x, None)
        return rearrange(self._gathers(k), "b h (y x) d -> b (h d) y x", y=x.shape[-2])

    def cost(self, height: int, width: int) -> Cost:
        """Parameters, and multiply-adds for one sample of that size."""
        return Cost(parameters=sum(p.numel() for p in self.parameters()), macs=height * width * self._macs_per_pixel())

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name == "gamma"}

    def extra_repr(self) -> str:
        return f"channels={self.channels}, key_channels={self.key_channels}, value_channels={self.value_channels}, num_heads={self.num_heads}"

    def _macs_per_pixel(self) -> int:
        return self.channels * self.qkv.out_channels + 2 * self.key_channels * self.value_channels // self.num_heads

    def _read(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values, each ``(B, H, N, D)``, and the mask of keys, ``(B, 1, 1, N)``."""
        check_maps(type(self).__name__, x, self.channels, self.qkv)
        q, k, v = self.qkv(x).split((self.key_channels, self.key_channels, self.value_channels), dim=1)
        if mask is not None:
            wanted = (x.shape[0], *x.shape[-2:])
            if mask.dtype != torch.bool or mask.shape != wanted:
                raise InputError(f"{type(self).__name__} expects a bool mask (B, H, W) = {wanted}, got {mask.dtype} of {tuple(mask.shape)}")
            mask = rearrange(mask, "b y x -> b 1 1 (y x)")
        return to_pixels(q, self.num_heads), to_pixels(k, self.num_heads), to_pixels(v, self.num_heads), mask


def to_pixels(x: Tensor, heads: int) -> Tensor:
    """``(B, C, H, W) -> (B, heads, H·W, C / heads)``."""
    return rearrange(x, "b (h d) y x -> b h (y x) d", h=heads)


def from_pixels(out: Tensor, like: Tensor) -> Tensor:
    """Back to maps of the size of ``like``, and channels-last where it is.

    Height and width are read off ``like`` by name: read in the wrong order they fit square maps alone.
    """
    height, width = like.shape[-2:]
    if is_channels_last(like):
        return rearrange(out, "b h (y x) d -> b y x (h d)", y=height, x=width).permute(0, 3, 1, 2)
    return rearrange(out, "b h (y x) d -> b (h d) y x", y=height, x=width)
