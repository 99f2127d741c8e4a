"""torchvision: Swin and Swin V2, whose attention cuts its windows itself.

Shapes     B images, (height, width) of the map, N tokens of a window, C width
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._host import Place, register_host
from ._parts import Copied, ScaledUnit, Unit, linear_of, only, without_bias_of_keys
from ._placed import SHIFTED, Bias, Placed

__all__: list[str] = []


class ShiftedPlaced(Placed):
    """Called with a map, ``(B, height, width, C)``. Windows are padded with zeros, which take part, as the host has it."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(attn, _position(module))
        self.window_size, self.shift_size = list(module.window_size), list(module.shift_size)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        (rows, columns), padding = self.window_size, [-size % window for size, window in zip((height, width), self.window_size, strict=True)]
        x = F.pad(x, (0, 0, 0, padding[1], 0, padding[0]))
        size = x.shape[1:3]
        # a window that covers the map is not shifted
        shift = [0 if window >= side else by for window, side, by in zip(self.window_size, size, self.shift_size, strict=True)]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
        windows = rearrange(x, "b (y r) (x c) d -> (b y x) (r c) d", r=rows, c=columns)
        bias = self._mask(size, shift, x).repeat(x.shape[0], 1, 1)[:, None] if any(shift) else None
        out = self.attn(windows, **self.options(bias=bias))
        out = rearrange(out, "(b y x) (r c) d -> b (y r) (x c) d", y=size[0] // rows, x=size[1] // columns, r=rows)
        if any(shift):
            out = out.roll((shift[0], shift[1]), dims=(1, 2))
        return out[:, :height, :width].contiguous()

    def _mask(self, size: Any, shift: list[int], like: Tensor) -> Tensor:
        """−100 between what was no neighbor before the shift, ``(windows, N, N)``."""
        regions = []
        for side, window, by in zip(size, self.window_size, shift, strict=True):
            place = torch.arange(side, device=like.device)
            regions.append((place >= side - window).int() + (place >= side - by).int() if by else torch.zeros_like(place).int())
        region = 3 * regions[0][:, None] + regions[1]
        region = rearrange(region, "(y r) (x c) -> (y x) (r c)", r=self.window_size[0], c=self.window_size[1])
        return torch.where(region[:, :, None] == region[:, None], 0.0, -100.0).to(like.dtype)


def _bias(table: Any) -> Tensor:
    return table.get_relative_position_bias()


def _position(module: Any) -> Bias:
    return Bias(only(module, ("relative_position_bias_table", "relative_position_index", "cpb_mlp", "relative_coords_table")), _bias)


def _read(module: Any, model: nn.Module, name: str) -> Place:
    second = hasattr(module, "logit_scale")
    # the host reads weights and does not call its layers, so nor must ours
    copied: tuple[Copied, ...] = ()
    qkv = linear_of(module.qkv.weight, module.qkv.bias)
    if second and module.qkv.bias is not None:
        qkv, copied = without_bias_of_keys(module.qkv.weight, module.qkv.bias)
    return Place(
        dim=qkv.in_features,
        num_heads=module.num_heads,
        head_dim=qkv.in_features // module.num_heads,
        qkv=qkv,
        proj=linear_of(module.proj.weight, module.proj.bias),
        q_norm=ScaledUnit(module.logit_scale) if second else nn.Identity(),
        k_norm=Unit() if second else nn.Identity(),
        attn_drop=module.attention_dropout,
        proj_drop=module.dropout,
        num_prefix_tokens=0,
        grid=tuple(module.window_size),
        windows=None,
        position=_position(module),
        needs_pairs=SHIFTED if any(module.shift_size) else "",
        copied=copied,
    )


def _wrap(module: Any, ours: nn.Module) -> nn.Module:
    return ShiftedPlaced(module, ours)


for _name in ("ShiftedWindowAttention", "ShiftedWindowAttentionV2"):
    register_host(f"torchvision.models.swin_transformer.{_name}", _read, _wrap)
