"""The UNet of denoising diffusion, with any attention where the published one has softmax attention of one head.

Paper      Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (arXiv 2006.11239), App. B; classes as in Dhariwal and Nichol, 2021 (arXiv 2105.05233)
Official   hojonathanho/diffusion, ``models/unet.py``; weight for weight diffusers' ``UNet2DModel`` (``tests/models/test_unet.py``)
Formula    a level: residual blocks, an attention behind each of them at some levels, half the side; a middle of block, attention, block; and up again, where
           each block sees the map of its own level on the way down. Every block adds a linear map of SiLU(time + class) between its convolutions
Differs    The stride of convolutions pads alike on both sides, as diffusers' default does and TensorFlow's does not. The attention starts as it does
           everywhere here, where the official last map starts at zero. Its place is GroupNorm, attention, residual for attentions on tokens, whose tokens are
           the pixels; those on feature maps stand in their own block.

Shapes     B batch, C channels of the image, W width, K classes
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import InputError
from .._ranges import Range
from ..attention import TokenAttention, config_from_dict, list_attentions
from ..attention._grid import set_grid
from ._built import Remembers
from ._conditioned import checked_inputs
from ._config import register_model
from .mixing import FeatureMapConfig, make_feature_mixer
from .vit import pair

__all__ = ["DiffusionUNet", "UNet"]

_GROUPS, _EPS, _LONGEST = 32, 1e-6, 10_000.0


class DiffusionUNet(nn.Module, Remembers):
    """The network.

    Args:
        img_size: side of the images, or height and width; the deepest level must still have a whole side.
        in_chans: C.
        num_classes: K; 0 for images without classes.
        width: W, channels of the first level, even.
        multipliers: channels of each level over W.
        blocks: residual blocks of a level on the way down; up there is one more.
        attention_levels: levels with an attention behind each block, the first is 0. The middle has one whatever this is.
        attention: name of an attention on tokens or on feature maps, ``pointwise``, or None for no attention anywhere.
        options: of the attention, as in its ``Config``.
        num_heads: of attentions on tokens.
        dropout: before the second convolution of a block.

    Shape:
        images ``(B, C, H, W)``, timesteps ``(B,)``, classes ``(B,)`` -> ``(B, C, H, W)``. Class K means none, and so does leaving it out.

    Raises:
        ValueError: sides that cannot be halved so often, levels that are not there, an unknown attention or option, heads that do not fit. In ``forward``:
            inputs of another shape.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int],
        in_chans: int = 3,
        num_classes: int = 0,
        width: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_levels: tuple[int, ...] = (1,),
        attention: str | None = "softmax",
        options: dict[str, Any] | None = None,
        num_heads: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        size, levels = pair(img_size), len(multipliers)
        if any(side % 2 ** (levels - 1) for side in size):
            raise InputError(f"{levels} levels halve the image {levels - 1} times, which {size[0]}×{size[1]} cannot be; give fewer multipliers")
        if not set(attention_levels) <= set(range(levels)) or width % 2 or blocks < 1 or not levels:
            raise InputError(
                f"expected an even width, at least one block and level, and attention_levels from 0 to {levels - 1}, got width {width}, "
                f"blocks {blocks}, multipliers {tuple(multipliers)} and attention_levels {tuple(attention_levels)}"
            )
        self.img_size, self.in_chans, self.num_classes = size, in_chans, num_classes
        channels = [width * factor for factor in multipliers]
        condition = 4 * width
        self.time_embedding: Any = nn.Sequential(nn.Linear(width, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.class_embedding = nn.Embedding(num_classes + 1, condition) if num_classes else None

        def place(wide: int, level: int) -> nn.Module:
            grid = (size[0] // 2**level, size[1] // 2**level)
            return _attention(attention, options, wide, num_heads, grid)

        self.conv_in = nn.Conv2d(in_chans, width, 3, padding=1)
        self.down: Any = nn.ModuleList()
        skips, now = [width], width
        for level, wide in enumerate(channels):
            self.down.append(stage := _Level())
            for _ in range(blocks):
                stage.add(_Block(now, wide, condition, dropout), place(wide, level) if level in attention_levels else nn.Identity())
                now = wide
                skips.append(now)
            if level < levels - 1:
                stage.resize = nn.Conv2d(now, now, 3, stride=2, padding=1)
                skips.append(now)
        self.middle: Any = _Level()
        self.middle.add(_Block(now, now, condition, dropout), place(now, levels - 1))
        self.middle.add(_Block(now, now, condition, dropout), nn.Identity())
        self.up: Any = nn.ModuleList()
        for level, wide in reversed(list(enumerate(channels))):
            self.up.append(stage := _Level())
            for _ in range(blocks + 1):
                stage.add(_Block(now + skips.pop(), wide, condition, dropout), place(wide, level) if level in attention_levels else nn.Identity())
                now = wide
            if level:
                stage.resize = nn.Conv2d(now, now, 3, padding=1)
        self.norm_out = _norm(now)
        self.conv_out = nn.Conv2d(now, in_chans, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = checked_inputs("diffusion UNet", x, t, y, in_chans=self.in_chans, size=self.img_size, num_classes=self.num_classes)
        condition = self.time_embedding(_wave(t, self.time_embedding[0].in_features).to(self.conv_in.weight.dtype))
        if self.class_embedding is not None:
            condition = condition + self.class_embedding(y)
        x = self.conv_in(x)
        seen = [x]
        for level in self.down:
            for block, mixer in level.pairs():
                x = mixer(block(x, condition))
                seen.append(x)
            if level.resize is not None:
                x = level.resize(x)
                seen.append(x)
        for block, mixer in self.middle.pairs():
            x = mixer(block(x, condition))
        for level in self.up:
            for block, mixer in level.pairs():
                x = mixer(block(torch.cat([x, seen.pop()], 1), condition))
            if level.resize is not None:
                x = level.resize(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))

    def no_weight_decay(self) -> set[str]:
        """Parameters that the attentions say should not decay."""
        return {f"{prefix}.{name}" for prefix, module in self.named_modules() if isinstance(module, TokenAttention) for name in module.no_weight_decay()}


class _Level(nn.Module):
    """Blocks and what stands behind each, and what changes the size behind all."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.mixers = nn.ModuleList(), nn.ModuleList()
        self.resize: Any = None

    def add(self, block: nn.Module, mixer: nn.Module) -> None:
        self.blocks.append(block)
        self.mixers.append(mixer)

    def pairs(self) -> Any:
        return zip(self.blocks, self.mixers, strict=True)


class _Block(nn.Module):
    def __init__(self, before: int, after: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.condition = nn.Linear(condition, after)
        self.norm2 = _norm(after)
        self.drop = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        # as officially: every block begins as its skip
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x))) + self.condition(F.silu(condition))[:, :, None, None]
        return self.skip(x) + self.conv2(self.drop(F.silu(self.norm2(inner))))


class _Tokens(nn.Module):
    """``x + attention(norm(x))``, pixels as tokens."""

    def __init__(self, attention: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.attn = attention

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm(x).flatten(2).mT).mT.reshape(x.shape)


def _attention(name: str | None, options: dict[str, Any] | None, channels: int, num_heads: int, grid: tuple[int, int]) -> nn.Module:
    if name not in list_attentions(form="tokens"):
        return make_feature_mixer(name, channels, num_heads=num_heads, options=options)
    config = set_grid(config_from_dict({"attention": name, **(options or {})}), 0, grid)
    # the official maps to queries, keys and values have biases
    return _Tokens(config.build(channels, num_heads=num_heads, qkv_bias=True), channels)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels, eps=_EPS)


def _wave(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of a timestep, ``(B,) -> (B, width)``; exponents over half the width less one, as officially."""
    half = width // 2
    frequencies = torch.exp(-math.log(_LONGEST) * torch.arange(half, dtype=torch.float32, device=t.device) / max(half - 1, 1))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@register_model
@dataclass(frozen=True, kw_only=True)
class UNet(FeatureMapConfig):
    """The UNet of denoising diffusion; by default the published one for CIFAR-10, 35.7 M parameters."""

    targets: ClassVar[str] = "images"
    trained_as: ClassVar[str] = "a denoiser"
    about: ClassVar[str] = "the UNet of denoising diffusion"
    ranges: ClassVar[dict[str, Range]] = {"multipliers": Range(at_least=1), "blocks": Range(at_least=1), "attention_levels": Range(at_least=0)}

    attention: str | None = "softmax"
    """Out of ``foveal list``, on tokens or on feature maps, or ``pointwise``, the control without mixing; none if None."""
    width: int = 128
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level over those of the first; a level has half the side of the one before."""
    blocks: int = 2
    """Residual blocks of a level."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with an attention behind each block, the first is 0; the middle always has one."""
    dropout: float = 0.1
    """In the residual blocks."""

    def build(self, *, img_size: int | tuple[int, int], in_chans: int, num_classes: int) -> DiffusionUNet:
        """The network.

        Raises:
            ValueError: see :class:`DiffusionUNet`.
        """
        return DiffusionUNet(
            img_size=img_size,
            in_chans=in_chans,
            num_classes=num_classes,
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention_levels=self.attention_levels,
            attention=self.attention,
            options=self.options,
            num_heads=self.num_heads,
            dropout=self.dropout,
        )

    def smoke_model(self) -> "UNet":
        return replace(self, width=16, blocks=1)
