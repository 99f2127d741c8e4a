"""A small fully convolutional network for laptops: what its few convolutions cannot see, only attention can bring.

Shapes     B batch, C channels, K classes
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..._errors import InputError
from .._config import register_model
from ..mixing import FeatureMapConfig
from ._size import resize

__all__ = ["SmallFCN", "SmallNet"]


def stack(in_chans: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """So many 3×3 convolutions with batch norm and ReLU, of which the first ones halve the map until it is ``stride`` times smaller."""
    halvings = stride.bit_length() - 1
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [
            nn.Conv2d(width if number else in_chans, width, 3, stride=2 if number < halvings else 1, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class SmallNet(nn.Module):
    """3×3 convolutions, a place where pixels meet, one more convolution and the classes. A pixel sees ``2 · depth + 3`` pixels across, times the stride.

    Args:
        in_chans: channels of the images.
        num_classes: K.
        width: channels inside.
        depth: 3×3 convolutions before the mixing.
        stride: 1, 2, 4 …: how much smaller the maps are than the image.
        mixer: ``(B, width, h, w)`` to the same.

    Shape:
        ``(B, in_chans, H, W) -> (B, K, H, W)``, any H and W.
    """

    def __init__(self, in_chans: int, num_classes: int, *, width: int, depth: int, stride: int, mixer: nn.Module) -> None:
        super().__init__()
        self.body = stack(in_chans, width, depth, stride)
        self.mixer = mixer
        self.tail = stack(width, width, 1, 1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.tail(self.mixer(self.body(x))))
        return resize(out, (x.shape[-2], x.shape[-1]))


@register_model
@dataclass(frozen=True, kw_only=True)
class SmallFCN(FeatureMapConfig):
    """The small network for laptops."""

    targets: ClassVar[str] = "masks"
    about: ClassVar[str] = "a small fully convolutional network"

    width: int = 32
    """Channels."""
    depth: int = 3
    """3×3 convolutions before the place of the attention."""
    stride: int = 1
    """Pixels from one place of the feature map to the next."""

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> SmallNet:
        """The network.

        Raises:
            ValueError: a width or depth below 1, a stride that is no power of 2 or more than the convolutions can halve.
        """
        if min(self.width, self.depth, self.stride) < 1 or self.stride & (self.stride - 1) or self.stride.bit_length() - 1 > self.depth:
            raise InputError(f"expected width and depth of at least 1 and a stride out of 1, 2, 4 … 2^depth, got {self.width}, {self.depth} and {self.stride}")
        return SmallNet(in_chans, num_classes, width=self.width, depth=self.depth, stride=self.stride, mixer=self.mixer(self.width))
