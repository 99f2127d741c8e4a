"""Any attention in a network of feature maps: one place where pixels meet, for which every mechanism has a block that fits.

Shapes     B batch, C channels, H height, W width, N = H·W pixels as tokens
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn

from .._errors import unknown
from ..attention import FAMILIES, AttentionConfig, attention_class, config_from_dict, list_attentions
from ..attention._base import is_channels_last
from ..attention._grid import without_grid
from ._config import Arm, ModelConfig

__all__ = ["FeatureMapConfig", "PixelMixer", "PointwiseControl", "list_feature_mixers", "make_feature_mixer"]

CONTROL = "pointwise"
"""The mixer in which nothing mixes."""


class PixelMixer(nn.Module):
    """A token attention on feature maps: pixels are tokens, with a norm before and a residual around, ``x + attention(norm(x))``.

    This form is ours; mechanisms that have a published block for feature maps stand in that.

    Args:
        config: the attention, one that needs no grid.
        channels: C.
        num_heads: heads; must divide C.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``, any H and W; channels-last stays channels-last.
    """

    def __init__(self, config: AttentionConfig, channels: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attn = without_grid(config, "in maps of any size").build(channels, num_heads=num_heads)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.attn(self.norm(rearrange(x, "b c h w -> b (h w) c")))
        if is_channels_last(x):
            return x + rearrange(tokens, "b (h w) c -> b h w c", h=x.shape[-2], w=x.shape[-1]).permute(0, 3, 1, 2)
        return x + rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[-2], w=x.shape[-1])


class PointwiseControl(nn.Module):
    """What is left of a block when its pixels do not meet: two 1×1 convolutions, batch norm, a residual and ReLU, as in the external attention block.

    The control for the weights that an attention block brings along.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.bn(self.conv2(nn.functional.relu(self.conv1(x)))) + x)


class _Residual(nn.Module):
    """For a mechanism that takes the place of a convolution: batch norm behind it, and the input added."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.block(x))


def list_feature_mixers() -> list[str]:
    """Names that :func:`make_feature_mixer` takes, besides None: every attention on feature maps, every one on tokens that needs no grid, and the control."""
    tokens = {name for name in list_attentions(form="tokens") if not attention_class(name).needs_grid}
    return sorted({*list_attentions(form="2d"), *tokens, CONTROL})


def make_feature_mixer(attention: str | None, channels: int, *, num_heads: int = 1, options: dict[str, Any] | None = None) -> nn.Module:
    """A block ``(B, C, H, W) -> (B, C, H, W)`` in which pixels meet by the named mechanism; the identity if None.

    Args:
        attention: out of :func:`list_feature_mixers`. Attentions on feature maps stand in the paper's own block, those on tokens in :class:`PixelMixer`.
        channels: C.
        num_heads: of attentions on tokens and of halo attention; the others have it among their options.
        options: of the mechanism, as in its ``Config``.

    Raises:
        ValueError: an unknown name or option, heads that do not divide the channels.
    """
    if attention is None:
        return nn.Identity()
    if attention not in list_feature_mixers():
        raise unknown("attention on feature maps", attention, list_feature_mixers())
    if attention == CONTROL:
        return PointwiseControl(channels)
    config = config_from_dict({"attention": attention, **(options or {})})
    cls = attention_class(attention)
    if cls.form == "tokens":
        return PixelMixer(config, channels, num_heads)
    block = config.build(channels, num_heads=num_heads) if cls.heads_of_place else config.build(channels)
    return block if cls.is_residual else _Residual(block, channels)


@dataclass(frozen=True, kw_only=True)
class FeatureMapConfig(ModelConfig):
    """Settings that networks of feature maps share: which attention, in the places that the network has for it."""

    baseline: ClassVar[str] = "none"
    default_arms: ClassVar[tuple[str, ...]] = ("none", CONTROL, "softmax", "external_2d", "efficient_2d", "linear_2d")

    attention: str | None = None
    """Out of ``foveal list``, on feature maps or on tokens, or ``pointwise``, the control without mixing; none if None."""
    options: dict[str, Any] | None = None
    """Options of the attention, as in its ``Config``."""
    num_heads: int = 1
    """Of attentions on tokens and of halo attention; the others on feature maps have it among their options."""

    def mixer(self, channels: int) -> nn.Module:
        """The attention block for feature maps of so many channels."""
        return make_feature_mixer(self.attention, channels, num_heads=self.num_heads, options=self.options)

    def arms(self) -> dict[str, Arm]:
        """No attention, the control, every mechanism, and external attention whose softmax is over slots alone, in which nothing mixes either."""
        found = {"none": Arm("none", "no attention", replace(self, attention=None, options=None))}
        for name in list_feature_mixers():
            about = "two 1×1 convolutions in its place: the weights without the mixing" if name == CONTROL else FAMILIES[attention_class(name).family]
            found[name] = Arm(name, about, replace(self, attention=name, options=None))
        about = "external attention with a softmax over slots alone: pixels do not meet"
        # the option's old name: a comparison that was begun under it is to be resumed, and a recipe is known by its very words
        found["external_2d-slot"] = Arm("external_2d-slot", about, replace(self, attention="external_2d", options={"norm": "slot"}))
        return found
