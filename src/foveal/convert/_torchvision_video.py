"""torchvision: Swin on videos, whose attention cuts its windows of frames, rows and columns itself.

Shapes     B videos, (frames, height, width) of the map, N tokens of a window, C width
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._host import Place, register_host
from ._parts import linear_of, only
from ._placed import SHIFTED, Bias, Placed

__all__: list[str] = []


class _WindowBias(Bias):
    """Of a window as large as the map lets it be."""

    def forward(self, window: list[int] | None = None) -> Tensor:
        """``(1, H, N, N)``."""
        return self.compute((self.table, self.table.window_size if window is None else window))


class ShiftedPlaced3d(Placed):
    """Called with a map, ``(B, frames, height, width, C)``. Windows are padded with zeros, which take part, as the host has it."""

    def __init__(self, module: Any, attn: nn.Module) -> None:
        super().__init__(attn, _position(module))
        self.window_size, self.shift_size = list(module.window_size), list(module.shift_size)

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.shape[1:4]
        # a window that covers the map is as large as the map, and not shifted
        fits = [side <= window for side, window in zip(sizes, self.window_size, strict=True)]
        window = [side if fit else given for side, given, fit in zip(sizes, self.window_size, fits, strict=True)]
        shift = [0 if fit else by for by, fit in zip(self.shift_size, fits, strict=True)]
        padding = [-side % cut for side, cut in zip(sizes, window, strict=True)]
        x = F.pad(x, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
        padded = x.shape[1:4]
        if any(shift):
            x = x.roll([-by for by in shift], dims=(1, 2, 3))
        cut = dict(zip("def", window, strict=True))
        windows = rearrange(x, "b (t d) (y e) (x f) c -> (b t y x) (d e f) c", **cut)
        options: dict[str, Any] = {}
        if self.position is not None:
            bias = self.position(window)
            options["attn_mask"] = bias + self._mask(padded, window, shift, x).repeat(x.shape[0], 1, 1)[:, None] if any(shift) else bias
        out = self.attn(windows, **options)
        places = {name: side // by for name, side, by in zip("tyx", padded, window, strict=True)}
        out = rearrange(out, "(b t y x) (d e f) c -> b (t d) (y e) (x f) c", **places, **cut)
        if any(shift):
            out = out.roll(shift, dims=(1, 2, 3))
        return out[:, : sizes[0], : sizes[1], : sizes[2]].contiguous()

    def _mask(self, padded: Any, window: list[int], shift: list[int], like: Tensor) -> Tensor:
        """−100 between what was no neighbor before the shift, ``(windows, N, N)``."""
        regions = []
        for side, cut, by in zip(padded, window, shift, strict=True):
            place = torch.arange(side, device=like.device)
            # where nothing is shifted the host's slices of the last tokens are all of them, and all is one region
            regions.append((place >= side - cut).int() + (place >= side - by).int() if by else torch.zeros_like(place).int())
        region = 9 * regions[0][:, None, None] + 3 * regions[1][:, None] + regions[2]
        region = rearrange(region, "(t d) (y e) (x f) -> (t y x) (d e f)", **dict(zip("def", window, strict=True)))
        return torch.where(region[:, :, None] == region[:, None], 0.0, -100.0).to(like.dtype)


def _bias(given: Any) -> Tensor:
    table, window = given
    return table.get_relative_position_bias(list(window))


def _position(module: Any) -> Bias:
    return _WindowBias(only(module, ("relative_position_bias_table", "relative_position_index")), _bias)


def _read(module: Any, model: nn.Module, name: str) -> Place:
    # the host reads weights and does not call its layers, so nor must ours
    qkv = linear_of(module.qkv.weight, module.qkv.bias)
    return Place(
        dim=qkv.in_features,
        num_heads=module.num_heads,
        head_dim=qkv.in_features // module.num_heads,
        qkv=qkv,
        proj=linear_of(module.proj.weight, module.proj.bias),
        attn_drop=module.attention_dropout,
        proj_drop=module.dropout,
        num_prefix_tokens=0,
        no_grid="among the frames of a video",
        windows=None,
        position=_position(module),
        needs_pairs=SHIFTED if any(module.shift_size) else "",
    )


register_host("torchvision.models.video.swin_transformer.ShiftedWindowAttention3d", _read, ShiftedPlaced3d)
