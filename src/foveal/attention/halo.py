"""Halo attention as a layer on tokens; see :mod:`foveal.functional.halo` for the mathematics, the paper and what differs from it, ``halo_2d`` for maps.

Shapes     B batch, C channels, N tokens, P prefix tokens, H heads, D head width
"""

from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any

import torch
from torch import Tensor

from .._errors import InputError
from ..functional import halo_attention, halo_attention_map, softmax_attention, softmax_attention_map
from ..functional._masks import keys_that_take_part
from ..functional.halo import HaloPath, check_path, halo_macs
from ._base import NormLayer, QKVAttention, timm_half
from ._core import Core, register_core
from ._registry import AttentionConfig, register
from ._transfer import HostLayers, Transfer, WarmStart, adopt_layers, rest_is_new
from .halo_2d import HaloPositions, table_rows

__all__ = ["HaloAttention", "HaloCore"]


@register_core("halo")
class HaloCore(Core):
    """Grid tokens meet in the window around their block; prefix tokens (class token, registers) see all tokens and are seen by all.

    Relative positions hold between grid tokens; to and from prefix tokens there are none. See :class:`HaloAttention` for the options.
    """

    non_causal_reason = "a window looks in all directions and prefix tokens join them"
    needs_grid = True

    def __init__(
        self,
        head_dim: int,
        *,
        block_size: int = 8,
        halo_size: int = 3,
        num_prefix_tokens: int = 1,
        grid_size: tuple[int, int] | None = None,
        scale_pos_embed: bool = False,
        path: HaloPath = "auto",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(head_dim)
        if num_prefix_tokens < 0:
            raise InputError(f"num_prefix_tokens must be at least 0, got {num_prefix_tokens}")
        if grid_size is not None and (len(grid_size) != 2 or min(grid_size) < 1):
            raise InputError(f"grid_size must be (rows, columns), both at least 1, got {grid_size}")
        check_path(path)
        self.block_size, self.halo_size, self.scale_pos_embed, self.path = block_size, halo_size, scale_pos_embed, path
        self.num_prefix_tokens, self.grid_size = num_prefix_tokens, grid_size
        self.pos_embed = HaloPositions(head_dim, table_rows(block_size, halo_size, 1, True), device=device, dtype=dtype)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False, dropout_p: float = 0.0, scale: float | None = None
    ) -> Tensor:
        q_grid, k_grid, v_grid, options = self._grid(q, k, v, mask)
        out = halo_attention(q_grid, k_grid, v_grid, **options, dropout_p=dropout_p, scale=scale, path=self.path).flatten(2, 3)
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
        if attn_mask is not None and tuple(attn_mask.shape) not in [(x.shape[0], 1, 1, x.shape[1]), (1, 1, 1, x.shape[1])]:
            raise InputError(
                f"{what} can leave out keys for all queries at once, "
                f"by an attn_mask, bool or 0 and -inf, of shape (B, 1, 1, N) = {(x.shape[0], 1, 1, x.shape[1])}, "
                f"got {attn_mask.dtype} of {tuple(attn_mask.shape)}; "
                "a mask per query would need the N × N pairs that windows avoid"
            )

    def no_weight_decay(self) -> set[str]:
        return {f"pos_embed.{name}" for name, _ in self.pos_embed.named_parameters()}

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, halo_size={self.halo_size}, num_prefix_tokens={self.num_prefix_tokens}, grid_size={self.grid_size}"

    def _grid_of(self, num_tokens: int) -> tuple[int, int]:
        pixels = num_tokens - self.num_prefix_tokens
        # the compiler knows the root of a size that may change, and exactly so where it is whole
        side = isqrt(max(pixels, 0)) if not torch.compiler.is_compiling() else round(pixels**0.5)
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
            "mask": None if mask is None else keys_that_take_part("halo attention", mask)[:, 0, 0].expand(q.shape[0], -1),
            "scale_rel": self.scale_pos_embed,
        }
        return q_grid, k_grid, v_grid, options


@register("halo", family="neighborhood")
class HaloAttention(QKVAttention):
    """Halo attention on the grid of a vision transformer, a drop-in for timm's ``attn_layer``, linear in the number of grid tokens.

    A grid token attends to the window around its block and to all prefix tokens (class token, registers); a prefix token attends to all tokens. So prefix
    tokens carry what is far away. Relative positions hold between grid tokens; to and from prefix tokens there are none.
    A window of the default size covers a grid of 8×8 whole; the saving begins well beyond the 14×14 of a ViT-B/16 at 224 pixels.

    Args:
        dim: width C of the tokens.
        num_heads: heads.
        qkv_bias: bias in ``qkv``.
        qk_norm: normalize queries and keys per head.
        scale_norm: normalize before ``proj``.
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
        path: how it is computed, as in :func:`foveal.functional.halo_attention`: ``"auto"``, or ``"flex"`` for a kernel compiled for a GPU.
            An attribute that can be changed later: ``attention.core.path = "auto"``.

    Shape:
        ``(B, P + rows · columns, dim) -> (B, P + rows · columns, dim)``.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim`` and no ``attn_head_dim`` is given; tokens that are no grid; causality, a context, or a mask that
            is not one of keys; a block below 1, a negative halo or number of prefix tokens.

    Example:
        >>> HaloAttention(dim=64, num_heads=4)(torch.randn(2, 1 + 24 * 24, 64)).shape
        torch.Size([2, 577, 64])
    """

    needs_grid = True

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionConfig):
        attn_head_dim: int | None = None
        block_size: int = 8
        halo_size: int = 3
        num_prefix_tokens: int = 1
        grid_size: tuple[int, int] | None = None
        scale_pos_embed: bool = False
        path: HaloPath = "auto"

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
        path: HaloPath = "auto",
    ) -> None:
        super().__init__(
            **timm_half(locals()),
            attn_head_dim=attn_head_dim,
            core="halo",
            core_options={
                "block_size": block_size,
                "halo_size": halo_size,
                "num_prefix_tokens": num_prefix_tokens,
                "grid_size": grid_size,
                "scale_pos_embed": scale_pos_embed,
                "path": path,
            },
        )

    @torch.no_grad()
    def adopt_(self, place: HostLayers, warm_start: WarmStart) -> Transfer:
        """Without positions at first: where a window covers the map the function is kept."""
        out = rest_is_new(self, adopt_layers(self, place))
        for table in self.core.parameters():
            table.zero_()
        assert isinstance(self.core, HaloCore), "halo attention owns this core"
        if place.grid is not None and all(_covers(self.core.block_size, self.core.halo_size, side) for side in place.grid):
            out.function = "kept"
        return out


def _covers(block: int, halo: int, side: int) -> bool:
    """Whether the window of every block sees the whole side."""
    return (ceil(side / block) - 1) * block <= halo and block + halo >= side
