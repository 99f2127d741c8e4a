"""Halo attention as layers, on maps and on tokens; see :mod:`foveal.functional.halo` for the mathematics, the paper and what differs from it.

Shapes     B batch, C channels, (height, width) of a map, N tokens, P prefix tokens, H heads, D head width of queries and keys, Dv of values
"""

from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .._errors import InputError
from ..functional import halo_attention, halo_attention_map, softmax_attention, softmax_attention_map
from ..functional.halo import halo_macs
from ._base import Cost, NormLayer, QKVAttention, check_channels, is_channels_last
from ._core import Core, core
from ._linear import is_plain
from ._registry import AttentionConfig, Family, Form, register

__all__ = ["HaloAttention", "HaloAttention2d", "HaloCore", "HaloPositions"]


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


@register("halo_2d", family="neighbourhood", form="maps")
class HaloAttention2d(nn.Module):
    """Halo attention on maps: timm's ``HaloAttn`` for any size, with a masked border and right offsets under stride. It takes the place of a 3×3 convolution.

    The flags in the second half reproduce what others compute; their defaults are the paper's mathematics.

    Args:
        dim: channels C that come in.
        dim_out: channels of queries and keys, and of values before ``r_v``; ``dim`` if None.
        num_heads: heads.
        block_size: b, side of the blocks that share a window.
        halo_size: h, how far a block sees beyond itself; a window has ``(b + 2h)²`` pixels.
        stride: 2 halves the map: queries are taken from every second row and column, keys and values from all.
        dim_head: width of a head's queries and keys; ``dim_out · qk_ratio / num_heads`` if None.
        qk_ratio: width of queries and keys relative to ``dim_out``.
        r_v: width of values relative to ``dim_out``.
        qkv_bias: biases of queries, keys and values.
        out_proj: a last 1×1 convolution to ``dim_out`` channels. HaloNet has none; the closing convolution of its bottleneck does that work.
        avg_down: stride by pooling the output instead of leaving out queries; so too where 2 does not divide ``block_size``.
        scale_pos_embed: scale relative logits as those of content, as halonet-pytorch does.
        mask_border: give no weight to pixels outside the map. False is timm: zero keys that take a share.
        strided_offsets: count offsets of strided queries in pixels. False is timm, which counts queries and pixels as if they were the same.
        tight_tables: hold only offsets that occur. False is timm and halonet-pytorch: ``2 · (b + 2h) − 1`` rows, of which some are never read.

    Shape:
        ``(B, dim, height, width) -> (B, out_channels, ⌈height / stride⌉, ⌈width / stride⌉)``, any height and width; channels-last stays channels-last.
        ``out_channels`` is ``dim_out`` behind a projection and ``r_v · dim_out`` without.

    Raises:
        ValueError: a stride other than 1 and 2; widths that heads do not divide; a block, head or width below 1, a negative halo; wrong channels or mask.

    Example:
        >>> HaloAttention2d(32, num_heads=4, stride=2)(torch.randn(2, 32, 17, 30)).shape
        torch.Size([2, 32, 9, 15])
    """

    name: str
    family: Family
    form: Form

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        block_size: int = 8
        halo_size: int = 3
        dim_head: int | None = None
        qk_ratio: float = 1.0
        r_v: float = 1.0
        qkv_bias: bool = False
        out_proj: bool = False
        avg_down: bool = False
        scale_pos_embed: bool = False
        mask_border: bool = True
        strided_offsets: bool = True
        tight_tables: bool = True

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        num_heads: int = 8,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        *,
        dim_head: int | None = None,
        qk_ratio: float = 1.0,
        r_v: float = 1.0,
        qkv_bias: bool = False,
        out_proj: bool = False,
        avg_down: bool = False,
        scale_pos_embed: bool = False,
        mask_border: bool = True,
        strided_offsets: bool = True,
        tight_tables: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        dim_out = dim if dim_out is None else dim_out
        if stride not in (1, 2):
            raise InputError(f"stride of halo attention must be 1 or 2, got {stride}")
        self.dim, self.num_heads, self.stride = dim, num_heads, stride
        self.dim_head = _head_width("dim_out · qk_ratio", dim_out * qk_ratio, num_heads, "give dim_head") if dim_head is None else dim_head
        self.dim_head_v = _head_width("dim_out · r_v", dim_out * r_v, num_heads, "choose another r_v")
        self.out_channels = dim_out if out_proj else num_heads * self.dim_head_v
        self.pools = stride > 1 and (avg_down or block_size % stride != 0)
        self.query_stride = 1 if self.pools else stride
        self.q = nn.Conv2d(dim, num_heads * self.dim_head, 1, stride=self.query_stride, bias=qkv_bias, **factory)
        self.kv = nn.Conv2d(dim, num_heads * (self.dim_head + self.dim_head_v), 1, bias=qkv_bias, **factory)
        self.pos_embed = HaloPositions(self.dim_head, _table_rows(block_size, halo_size, self.query_stride, tight_tables), **factory)
        self.proj = nn.Conv2d(num_heads * self.dim_head_v, dim_out, 1, **factory) if out_proj else nn.Identity()
        self.block_size, self.halo_size, self.mask_border = block_size, halo_size, mask_border
        self.scale_pos_embed, self.strided_offsets = scale_pos_embed, strided_offsets
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """timm's truncated normal of queries, keys and values; the tables reset themselves."""
        for conv in (self.q, self.kv):
            nn.init.trunc_normal_(conv.weight, std=self.dim**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: a map, ``(B, dim, height, width)``.
            mask: bool, ``(B, height, width)``, True where a pixel can be seen, as in padded batches of images.

        Returns:
            ``(B, out_channels, ⌈height / stride⌉, ⌈width / stride⌉)``.

        Raises:
            ValueError: wrong channels or dtype; a mask of another shape or not bool.
        """
        options = self._options(x, mask)
        q, k, v = self._read(x)
        out = rearrange(halo_attention(q, k, v, **options), "b h y x d -> b (h d) y x")
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
        macs = queries * self.dim * self.num_heads * self.dim_head + pixels * self.dim * (self.num_heads * self.dim_head + inner)
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
        return f"dim={self.dim}, num_heads={self.num_heads}, block_size={self.block_size}, halo_size={self.halo_size}, stride={self.stride}"

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
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) if self.pools else x

    def _options(self, x: Tensor, mask: Tensor | None) -> dict[str, Any]:
        check_channels(type(self).__name__, x, self.dim, "(B, C, H, W)", 1)
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


@core("halo")
class HaloCore(Core):
    """Grid tokens meet in the window around their block; prefix tokens (class token, registers) see all tokens and are seen by all.

    Relative positions hold between grid tokens; to and from prefix tokens there are none. See :class:`HaloAttention` for the options.
    """

    only_whole = "a window looks in all directions and prefix tokens join them"

    def __init__(
        self,
        head_dim: int,
        *,
        block_size: int = 8,
        halo_size: int = 3,
        num_prefix_tokens: int = 1,
        grid_size: tuple[int, int] | None = None,
        scale_pos_embed: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(head_dim)
        if num_prefix_tokens < 0:
            raise InputError(f"num_prefix_tokens must be at least 0, got {num_prefix_tokens}")
        if grid_size is not None and (len(grid_size) != 2 or min(grid_size) < 1):
            raise InputError(f"grid_size must be (rows, columns), both at least 1, got {grid_size}")
        self.block_size, self.halo_size, self.scale_pos_embed = block_size, halo_size, scale_pos_embed
        self.num_prefix_tokens, self.grid_size = num_prefix_tokens, grid_size
        self.pos_embed = HaloPositions(head_dim, _table_rows(block_size, halo_size, 1, True), device=device, dtype=dtype)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        q_grid, k_grid, v_grid, options = self._grid(q, k, v, mask)
        out = halo_attention(q_grid, k_grid, v_grid, **options, dropout_p=dropout_p, scale=scale).flatten(2, 3)
        if not self.num_prefix_tokens:
            return out
        prefix = softmax_attention(q[:, :, : self.num_prefix_tokens], k, v, mask=mask, dropout_p=dropout_p, scale=scale)
        return torch.cat([prefix, out], dim=2)

    def map(self, q: Tensor, k: Tensor, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Zero between a grid token and those outside its window."""
        q_grid, k_grid, _, options = self._grid(q, k, k, mask)
        options.pop("global_v")
        prefix = softmax_attention_map(q[:, :, : self.num_prefix_tokens], k, mask=mask)
        return torch.cat([prefix, halo_attention_map(q_grid, k_grid, **options)], dim=2)

    def macs(self, num_tokens: int, num_heads: int) -> int:
        height, width = self._grid_of(num_tokens)
        grid = halo_macs(
            height,
            width,
            num_heads=num_heads,
            dim_head=self.head_dim,
            dim_head_v=self.head_dim,
            block_size=self.block_size,
            halo_size=self.halo_size,
            num_global=self.num_prefix_tokens,
        )
        return grid + 2 * self.num_prefix_tokens * num_tokens * num_heads * self.head_dim

    def check(self, what: str, x: Tensor, attn_mask: Tensor | None, is_causal: bool, context: Tensor | None) -> None:
        super().check(what, x, attn_mask, is_causal, context)
        if context is not None:
            raise InputError(f"{what} cannot attend to a context: windows are cut from the grid that the queries lie on; use softmax attention")
        if attn_mask is not None and (attn_mask.dtype != torch.bool or attn_mask.shape not in {(b, 1, 1, x.shape[1]) for b in (1, x.shape[0])}):
            raise InputError(
                f"{what} can leave out keys for all queries at once, "
                f"by a bool attn_mask of shape (B, 1, 1, N) = {(x.shape[0], 1, 1, x.shape[1])}, got {attn_mask.dtype} of {tuple(attn_mask.shape)}; "
                "a mask per query would need the N × N pairs that windows avoid"
            )

    def no_weight_decay(self) -> set[str]:
        return {f"pos_embed.{name}" for name, _ in self.pos_embed.named_parameters()}

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, halo_size={self.halo_size}, num_prefix_tokens={self.num_prefix_tokens}, grid_size={self.grid_size}"

    def _grid_of(self, num_tokens: int) -> tuple[int, int]:
        pixels = num_tokens - self.num_prefix_tokens
        side = isqrt(max(pixels, 0))
        height, width = (side, side) if self.grid_size is None else self.grid_size
        if pixels < 1 or height * width != pixels:
            expected = "a square grid" if self.grid_size is None else f"a grid of {height}×{width}"
            raise InputError(
                f"halo attention on tokens expects {self.num_prefix_tokens} prefix tokens and {expected}, got {num_tokens} tokens; "
                "set num_prefix_tokens and grid_size"
            )
        return height, width

    def _grid(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """The grid's queries, keys and values, ``(B, H, rows, columns, D)``, and the options of :func:`halo_attention`."""
        prefix, grid = self.num_prefix_tokens, self._grid_of(q.shape[2])
        q_grid, k_grid, v_grid = (part[:, :, prefix:].unflatten(2, grid) for part in (q, k, v))
        options = {
            "rel_height": self.pos_embed.height_rel,
            "rel_width": self.pos_embed.width_rel,
            "block_size": self.block_size,
            "halo_size": self.halo_size,
            "global_k": k[:, :, :prefix] if prefix else None,
            "global_v": v[:, :, :prefix] if prefix else None,
            "mask": None if mask is None else mask[:, 0, 0].expand(q.shape[0], -1),
            "scale_rel": self.scale_pos_embed,
        }
        return q_grid, k_grid, v_grid, options


@register("halo", family="neighbourhood")
class HaloAttention(QKVAttention):
    """Halo attention on the grid of a vision transformer, a drop-in for timm's ``attn_layer``, linear in the number of grid tokens.

    A grid token attends to the window around its block and to all prefix tokens (class token, registers); a prefix token attends to all tokens. So prefix
    tokens carry what is far away. Relative positions hold between grid tokens; to and from prefix tokens there are none.
    A window of the default size covers a grid of 8×8 whole; the saving begins well beyond the 14×14 of a ViT-B/16 at 224 pixels.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalise queries and keys per head.
        scale_norm: normalise before ``proj``.
        proj_bias: bias in ``proj``.
        attn_drop: dropout on the map, in training.
        proj_drop: dropout on the output, in training.
        norm_layer: for ``qk_norm`` and ``scale_norm``; ``nn.LayerNorm`` if None.
        attn_head_dim: width of a head; ``dim / num_heads`` if None.
        block_size: b, side of the blocks that share a window.
        halo_size: h, how far a block sees beyond itself.
        num_prefix_tokens: P, tokens in front that are not of the grid.
        grid_size: rows and columns of the grid; None takes the other tokens for a square.
        scale_pos_embed: scale relative logits as those of content.

    Shape:
        ``(B, P + rows · columns, dim) -> (B, P + rows · columns, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; tokens that are no grid; causality, a context, or a mask that
            is not one of keys; a block below 1, a negative halo or number of prefix tokens.

    Example:
        >>> HaloAttention(dim=64, num_heads=4)(torch.randn(2, 1 + 24 * 24, 64)).shape
        torch.Size([2, 577, 64])
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        block_size: int = 8
        halo_size: int = 3
        num_prefix_tokens: int = 1
        grid_size: tuple[int, int] | None = None
        scale_pos_embed: bool = False

        def __post_init__(self) -> None:
            # JSON has no tuples
            if self.grid_size is not None:
                object.__setattr__(self, "grid_size", tuple(self.grid_size))

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
        block_size: int = 8,
        halo_size: int = 3,
        num_prefix_tokens: int = 1,
        grid_size: tuple[int, int] | None = None,
        scale_pos_embed: bool = False,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            scale_norm=scale_norm,
            proj_bias=proj_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=norm_layer,
            attn_head_dim=attn_head_dim,
            core="halo",
            core_options={
                "block_size": block_size,
                "halo_size": halo_size,
                "num_prefix_tokens": num_prefix_tokens,
                "grid_size": grid_size,
                "scale_pos_embed": scale_pos_embed,
            },
            device=device,
            dtype=dtype,
        )


def _table_rows(block_size: int, halo_size: int, stride: int, tight: bool) -> int:
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
    out = torch.bmm(x.flatten(2).mT, weight.mT.expand(x.shape[0], -1, -1))
    return (out if bias is None else out + bias).unflatten(1, x.shape[2:])
