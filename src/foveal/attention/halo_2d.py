"""Halo attention as a layer on maps; see :mod:`foveal.functional.halo` for the mathematics, the paper and what differs from it.

Shapes     B batch, C channels, (height, width) of a map, H heads, D head width of queries and keys, Dv of values
"""

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from .._renamed import renamed_attribute
from ..functional import halo_attention, halo_attention_map
from ..functional._transforms import known
from ..functional.halo import HaloPath, check_path, halo_macs
from ._base import Cost, check_maps, is_channels_last
from ._feature_map import FeatureMapAttention
from ._linear import is_plain
from ._registry import AttentionConfig, register

__all__ = ["HaloAttention2d", "HaloPositions", "table_rows"]


class HaloPositions(nn.Module):
    """The two tables of relative positions, shared by all heads and blocks; both layers below own one, under timm's names.

    Args:
        dim: width of a head's queries and keys.
        rows: offsets per table.
    """

    def __init__(self, dim: int, rows: int, *, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.height_rel = nn.Parameter(torch.empty(rows, dim, device=device, dtype=dtype))
        self.width_rel = nn.Parameter(torch.empty(rows, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """timm's truncated normal with standard deviation ``dim ** -0.5``."""
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=table.shape[1] ** -0.5)

    def extra_repr(self) -> str:
        return f"rows={self.height_rel.shape[0]}, dim={self.height_rel.shape[1]}"


@register("halo_2d", family="neighborhood", form="2d")
class HaloAttention2d(FeatureMapAttention):
    """Halo attention on maps: timm's ``HaloAttn`` for any size, with a masked border and right offsets under stride. It takes the place of a 3×3 convolution.

    The flags in the second half reproduce what others compute; their defaults are the paper's mathematics.

    Args:
        channels: C, that come in.
        out_channels: channels of queries and keys, and of values before ``value_ratio``; ``channels`` if None. So many come out,
            times ``value_ratio`` where there is no ``out_proj``.
        num_heads: heads.
        block_size: b, side of the blocks that share a window.
        halo_size: h, how far a block sees beyond itself; a window has ``(b + 2h)²`` pixels.
        stride: 2 halves the map: queries are taken from every second row and column, keys and values from all.
        dim_head: width of a head's queries and keys; ``out_channels · qk_ratio / num_heads`` if None.
        qk_ratio: width of queries and keys relative to ``out_channels``.
        value_ratio: width of values relative to ``out_channels``.
        qkv_bias: biases of queries, keys and values.
        out_proj: a last 1×1 convolution to ``out_channels`` channels. HaloNet has none; the closing convolution of its bottleneck does that work.
        avg_down: stride by pooling the output instead of leaving out queries; so too where 2 does not divide ``block_size``.
        scale_pos_embed: scale relative logits as those of content, as halonet-pytorch does.
        mask_border: give no weight to pixels outside the map. False is timm: zero keys that take a share.
        strided_offsets: count offsets of strided queries in pixels. False is timm, which counts queries and pixels as if they were the same.
        tight_tables: hold only offsets that occur. False is timm and halonet-pytorch: ``2 · (b + 2h) − 1`` rows, of which some are never read.
        path: how it is computed, as in :func:`foveal.functional.halo_attention`: ``"auto"``, or ``"flex"`` for a kernel compiled for a GPU.
            An attribute that can be changed later.

    Shape:
        ``(B, channels, height, width) -> (B, out_channels, ⌈height / stride⌉, ⌈width / stride⌉)``, any height and width; channels-last stays channels-last.
        The attribute ``out_channels`` is how many come out.

    Raises:
        ValueError: a stride other than 1 and 2; widths that heads do not divide; a block, head or width below 1, a negative halo; wrong channels or mask.

    Example:
        >>> HaloAttention2d(32, num_heads=4, stride=2)(torch.randn(2, 32, 17, 30)).shape
        torch.Size([2, 32, 9, 15])
    """

    old_names: ClassVar[dict[str, str]] = {"dim": "channels", "dim_out": "out_channels", "r_v": "value_ratio"}
    dim = renamed_attribute("HaloAttention2d", "dim", "channels", silent=True)
    is_residual = False
    heads_of_place = True

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        block_size: int = 8
        halo_size: int = 3
        dim_head: int | None = None
        qk_ratio: float = 1.0
        value_ratio: float = 1.0
        qkv_bias: bool = False
        out_proj: bool = False
        avg_down: bool = False
        scale_pos_embed: bool = False
        mask_border: bool = True
        strided_offsets: bool = True
        tight_tables: bool = True
        path: HaloPath = "auto"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        num_heads: int = 8,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        *,
        dim_head: int | None = None,
        qk_ratio: float = 1.0,
        value_ratio: float = 1.0,
        qkv_bias: bool = False,
        out_proj: bool = False,
        avg_down: bool = False,
        scale_pos_embed: bool = False,
        mask_border: bool = True,
        strided_offsets: bool = True,
        tight_tables: bool = True,
        path: HaloPath = "auto",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(channels, num_heads)
        self.channels: int = channels
        factory = {"device": device, "dtype": dtype}
        out_channels = channels if out_channels is None else out_channels
        check_path(path)
        if stride not in (1, 2):
            raise InputError(f"stride of halo attention must be 1 or 2, got {stride}")
        self.stride = stride
        self.dim_head = _head_width("out_channels · qk_ratio", out_channels * qk_ratio, num_heads, "give dim_head") if dim_head is None else dim_head
        self.dim_head_v = _head_width("out_channels · value_ratio", out_channels * value_ratio, num_heads, "choose another value_ratio")
        self.out_channels: int = out_channels if out_proj else num_heads * self.dim_head_v
        self.pools = stride > 1 and (avg_down or block_size % stride != 0)
        self.query_stride = 1 if self.pools else stride
        self.q = nn.Conv2d(channels, num_heads * self.dim_head, 1, stride=self.query_stride, bias=qkv_bias, **factory)
        self.kv = nn.Conv2d(channels, num_heads * (self.dim_head + self.dim_head_v), 1, bias=qkv_bias, **factory)
        self.pos_embed = HaloPositions(self.dim_head, table_rows(block_size, halo_size, self.query_stride, tight_tables), **factory)
        self.proj = nn.Conv2d(num_heads * self.dim_head_v, out_channels, 1, **factory) if out_proj else nn.Identity()
        self.block_size, self.halo_size, self.mask_border = block_size, halo_size, mask_border
        self.scale_pos_embed, self.strided_offsets, self.path = scale_pos_embed, strided_offsets, path
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """timm's truncated normal of queries, keys and values; the tables reset themselves."""
        for conv in (self.q, self.kv):
            nn.init.trunc_normal_(conv.weight, std=self.channels**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: a map, ``(B, channels, height, width)``.
            mask: bool, ``(B, height, width)``, True where a pixel can be seen, as in padded batches of images.

        Returns:
            ``(B, out_channels, ⌈height / stride⌉, ⌈width / stride⌉)``.

        Raises:
            ValueError: wrong channels or dtype; a mask of another shape or not bool.
        """
        options = self._options(x, mask)
        q, k, v = self._read(x)
        out = halo_attention(q, k, v, **options, path=self.path).permute(0, 1, 4, 2, 3).contiguous().flatten(1, 2)
        # heads lie apart in memory; the next layer should find what it gave us
        out = out.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)
        return self.proj(self._pool(out))

    def attention_map(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """``combined``: the implied map from output pixels to input pixels, ``(B, H, N / stride², N)``. Applied to the values it gives the output.

        Zero outside the window. Rows sum to one; under ``mask_border=False`` to less, the rest went to zeros outside the map.
        """
        options = self._options(x, mask)
        q, k, _ = self._read(x)
        combined = halo_attention_map(q, k, **options)
        if self.pools:
            columns = rearrange(combined, "b h (y x) n -> b (h n) y x", x=x.shape[-1])
            combined = rearrange(self._pool(columns), "b (h n) y x -> b h (y x) n", h=self.num_heads)
        return {"combined": combined}

    def cost(self, height: int, width: int) -> Cost:
        """Parameters, and multiply-adds for one sample of that size, those of blocks that overhang the map included."""
        inner, pixels, queries = self.num_heads * self.dim_head_v, height * width, ceil(height / self.query_stride) * ceil(width / self.query_stride)
        macs = queries * self.channels * self.num_heads * self.dim_head + pixels * self.channels * (self.num_heads * self.dim_head + inner)
        macs += halo_macs(
            height,
            width,
            num_heads=self.num_heads,
            dim_head=self.dim_head,
            dim_head_v=self.dim_head_v,
            block_size=self.block_size,
            halo_size=self.halo_size,
            stride=self.query_stride,
            mask_border=self.mask_border,
        )
        if isinstance(self.proj, nn.Conv2d):
            macs += ceil(height / self.stride) * ceil(width / self.stride) * inner * self.out_channels
        return Cost(parameters=sum(p.numel() for p in self.parameters()), macs=macs)

    def no_weight_decay(self) -> set[str]:
        return {f"pos_embed.{name}" for name, _ in self.pos_embed.named_parameters()}

    def extra_repr(self) -> str:
        return f"channels={self.channels}, num_heads={self.num_heads}, block_size={self.block_size}, halo_size={self.halo_size}, stride={self.stride}"

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``(B, H, height, width, D)``."""
        if self.query_stride == 1 and is_plain(self.q, nn.Conv2d) and is_plain(self.kv, nn.Conv2d) and (self.q.bias is None) == (self.kv.bias is None):
            # one product reads the map once, and rows of weights are cheaper to sort than the maps that they make
            weight = torch.cat([self.q.weight, *self._rows(self.kv.weight)])
            bias = None if self.q.bias is None or self.kv.bias is None else torch.cat([self.q.bias, *self._rows(self.kv.bias)])
            widths = [self.num_heads * self.dim_head, self.num_heads * self.dim_head, self.num_heads * self.dim_head_v]
            q, k, v = (self._heads(part) for part in _matrix_product(x, weight, bias).split(widths, dim=-1))
        else:
            q, kv = self._heads(_pixels(self.q, x)), self._heads(_pixels(self.kv, x))
            k, v = kv.split([self.dim_head, self.dim_head_v], dim=-1)
        return q, k, v

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b y x (h d) -> b h y x d", h=self.num_heads)

    def _rows(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Those of keys and those of values; in ``kv`` they alternate, head by head, as in timm."""
        k, v = kv.unflatten(0, (self.num_heads, -1)).split([self.dim_head, self.dim_head_v], dim=1)
        return k.flatten(0, 1), v.flatten(0, 1)

    def _pool(self, x: Tensor) -> Tensor:
        if not self.pools:
            return x
        height, width = x.shape[-2:]
        if torch.jit.is_tracing() or known(height * width < 2**62):
            return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        # of sizes that are left open, ceil_mode asks whether its last window begins inside: here the last row stands for the one that is missing
        for dim, size in ((2, height), (3, width)):
            x = x.index_select(dim, torch.arange(2 * ((size + 1) // 2), device=x.device).clamp(max=size - 1))
        return F.avg_pool2d(x, 2)

    def _options(self, x: Tensor, mask: Tensor | None) -> dict[str, Any]:
        check_maps(type(self).__name__, x, self.channels, self.kv)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (x.shape[0], *x.shape[2:])):
            want = (x.shape[0], *x.shape[2:])
            raise InputError(f"HaloAttention2d expects a bool mask of shape (B, height, width) = {want}, got {mask.dtype} of {tuple(mask.shape)}")
        return {
            "rel_height": self.pos_embed.height_rel,
            "rel_width": self.pos_embed.width_rel,
            "block_size": self.block_size,
            "halo_size": self.halo_size,
            "stride": self.query_stride,
            "mask": None if mask is None else mask.flatten(1),
            "scale_rel": self.scale_pos_embed,
            "mask_border": self.mask_border,
            "rel_stride": None if self.strided_offsets else 1,
        }


def table_rows(block_size: int, halo_size: int, stride: int, tight: bool) -> int:
    """Offsets a table holds."""
    if block_size < 1 or halo_size < 0:
        raise InputError(f"halo attention expects block_size of at least 1 and halo_size of at least 0, got {block_size} and {halo_size}")
    return 2 * block_size + 2 * halo_size - stride if tight else 2 * (block_size + 2 * halo_size) - 1


def _head_width(what: str, width: float, num_heads: int, remedy: str) -> int:
    if num_heads < 1 or width < 1:
        raise InputError(f"num_heads and {what} must be at least 1, got {num_heads} and {width:g}")
    if width != round(width) or round(width) % num_heads:
        raise InputError(f"num_heads must divide {what}, got num_heads={num_heads} and {width:g}; {remedy}")
    return round(width) // num_heads


def _pixels(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1×1 convolution with channels last, ``(B, C, height, width) -> (B, height, width, C')``: pixels as the windows need them."""
    if not isinstance(conv, nn.Conv2d) or not is_plain(conv, nn.Conv2d):
        return conv(x).permute(0, 2, 3, 1)
    return _matrix_product(x[..., :: conv.stride[0], :: conv.stride[1]], conv.weight, conv.bias)


def _matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1×1 convolution as one matrix product, without a copy of either map."""
    weight = weight.flatten(1)
    if is_channels_last(x):
        return F.linear(x.permute(0, 2, 3, 1), weight, bias)
    out = torch.bmm(x.flatten(2).transpose(-2, -1), weight.transpose(-2, -1).expand(x.shape[0], -1, -1))
    # not by unflatten, in which ONNX's old exporter fixes the number of images
    return (out if bias is None else out + bias).view(x.shape[0], *x.shape[2:], weight.shape[0])
