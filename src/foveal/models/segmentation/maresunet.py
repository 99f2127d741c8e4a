"""MAResU-Net: a U-Net on a residual encoder whose skips pass an attention block each.

Paper      Li, Zheng, Duan, Su, Zhang, "Multistage Attention ResU-Net for Semantic Segmentation of Fine-Resolution Remote Sensing Images", IEEE GRSL 2021
           (arXiv 2011.14302)
Official   lironui/MAResU-Net, whose license forbids taking from it; written from the formulas
Differs    Rectangular images of any size (the official code needs squares, multiples of 32; we pad below and on the right, and crop). Any number of channels
           (there the first convolution has 3 whatever is asked for). The channel attention is computed in float32: its logits are sums over all pixels and
           overflow in half precision. Norms have a floor, so that a pixel of zeros does not turn the whole output into NaN.

Shapes     B batch, C channels, H height, W width, N = H·W, K classes
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..._errors import missing_extra
from ..._fx import Leaf
from ...functional._precision import whole_precision
from .._config import register_model
from ..mixing import FeatureMapConfig
from ._size import pad_to

__all__ = ["MAResUNet", "MultistageUNet"]

WIDTHS = (64, 128, 256, 512)


class ChannelAttention(Leaf):
    """Channels meet channels: ``x + γ · softmax(max(E) − E) X`` with ``E = X Xᵀ`` over pixels, so that unlike channels weigh most. γ starts at 0.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        with whole_precision(x):
            pixels = x.float().flatten(2)
            # softmax(max(E) − E) is softmax(−E): the maximum of a row shifts all of it
            weights = (-(pixels @ pixels.transpose(-2, -1))).softmax(-1)
            out = (weights @ pixels).unflatten(2, x.shape[-2:]).to(x.dtype)
        return x + self.gamma.to(x.dtype) * out


class AttentionBlock(nn.Module):
    """A 3×3 convolution, attention among pixels and among channels side by side, each through a 1×1 convolution, and one behind their sum.

    Shape:
        ``(B, C, H, W) -> (B, C, H, W)``.
    """

    def __init__(self, channels: int, pixels: nn.Module, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.pixels = pixels
        self.pixels_out = _pointwise(channels, dropout)
        self.channels = ChannelAttention()
        self.channels_out = _pointwise(channels, dropout)
        self.out = _pointwise(channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.out(self.pixels_out(self.pixels(x)) + self.channels_out(self.channels(x)))


def _pointwise(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, channels, 1), nn.ReLU())


class Decoder(nn.Sequential):
    """LinkNet's: narrow, twice as large, wide again. ``(B, C, H, W) -> (B, C', 2H, 2W)``."""

    def __init__(self, channels: int, out_channels: int) -> None:
        inner = channels // 4
        super().__init__(
            nn.Conv2d(channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class MultistageUNet(nn.Module):
    """MAResU-Net.

    Args:
        encoder: timm's features of a ResNet at strides 4, 8, 16 and 32, of 64, 128, 256 and 512 channels.
        mixers: attention among pixels for each of these.
        num_classes: K.

    Shape:
        ``(B, in_chans, H, W) -> (B, K, H, W)``, any H and W.
    """

    def __init__(self, encoder: nn.Module, mixers: list[nn.Module], num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention = nn.ModuleList(AttentionBlock(width, mixer) for width, mixer in zip(WIDTHS, mixers, strict=True))
        self.decoders = nn.ModuleList([Decoder(512, 256), Decoder(256, 128), Decoder(128, 64), Decoder(64, 64)])
        self.head = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, num_classes, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        skips = [attend(features) for attend, features in zip(self.attention, self.encoder(pad_to(x, 32)), strict=True)]
        out = skips.pop()
        for decode in self.decoders:
            out = decode(out)
            if skips:
                out = out + skips.pop()
        return self.head(out)[..., :height, :width]


@register_model
@dataclass(frozen=True, kw_only=True)
class MAResUNet(FeatureMapConfig):
    """MAResU-Net: 26,276,510 parameters with six classes, 7.18 thousand million multiply-adds at 256×256."""

    targets: ClassVar[str] = "masks"
    about: ClassVar[str] = "MAResU-Net"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "pointwise", "linear_2d", "external_2d", "efficient_2d")

    attention: str | None = "linear_2d"
    """Among the pixels, at all four stages. The attention among channels stays; the paper has both."""
    encoder: Literal["resnet18", "resnet34"] = "resnet34"
    """Which ResNet."""
    pretrained: bool = False
    """Start the encoder from timm's ImageNet weights, which are downloaded."""

    def smoke_model(self) -> "MAResUNet":
        return replace(self, encoder="resnet18", pretrained=False)

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> MultistageUNet:
        try:
            import timm
        except ImportError as error:
            raise missing_extra("timm", "timm", "MAResU-Net's encoder") from error
        options: dict[str, Any] = {"features_only": True, "out_indices": (1, 2, 3, 4), "in_chans": in_chans, "pretrained": self.pretrained}
        return MultistageUNet(timm.create_model(self.encoder, **options), [self.mixer(width) for width in WIDTHS], num_classes)
