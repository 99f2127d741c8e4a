"""Residual blocks of SAGAN's two networks.

Official   POSTECH-CVLab/PyTorch-StudioGAN of May 2021, ``src/models/resnet.py`` and ``model_ops.py``.

Shapes     B batch, C channels, H height, W width, K classes
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError
from .spectral import SpectralConv2d, SpectralEmbedding

__all__ = ["EPS", "ConditionalBatchNorm2d", "DiscriminatorBlock", "FirstBlock", "GeneratorBlock"]

EPS = 1e-4
"""Of batch norm."""


class ConditionalBatchNorm2d(nn.Module):
    """``BN(x) · (1 + gain[y]) + bias[y]``, with tables of classes that are spectrally normalized; without classes plain batch norm, gain and bias its own."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=EPS, affine=not num_classes)
        self.gain = SpectralEmbedding(num_classes, channels) if num_classes else None
        self.bias = SpectralEmbedding(num_classes, channels) if num_classes else None

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        x = self.norm(x)
        if self.gain is None or self.bias is None:
            return x
        if y is None:
            raise InputError("this generator draws by class; give a class for each image")
        return x * (1 + self.gain(y)[:, :, None, None]) + self.bias(y)[:, :, None, None]


class GeneratorBlock(nn.Module):
    """``(B, C, H, W) -> (B, out, 2H, 2W)``."""

    def __init__(self, channels: int, out: int, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm2d(channels, num_classes)
        self.conv1 = SpectralConv2d(channels, out, 3)
        self.norm2 = ConditionalBatchNorm2d(out, num_classes)
        self.conv2 = SpectralConv2d(out, out, 3)
        self.skip = SpectralConv2d(channels, out, 1)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, y)), scale_factor=2, mode="nearest"))
        h = self.conv2(F.relu(self.norm2(h, y)))
        return h + self.skip(F.interpolate(x, scale_factor=2, mode="nearest"))


class FirstBlock(nn.Module):
    """Of the discriminator, for images: ``(B, C, H, W) -> (B, out, H / 2, W / 2)``. Its skip is pooled before it is mapped."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(channels, out, 3)
        self.conv2 = SpectralConv2d(out, out, 3)
        self.skip = SpectralConv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv2(F.relu(self.conv1(x))), 2) + self.skip(F.avg_pool2d(x, 2))


class DiscriminatorBlock(nn.Module):
    """``(B, C, H, W) -> (B, out, H / 2, W / 2)``, or of the same size without ``down``.

    The skip is that of ReLU(x): the published networks rectify in place.
    """

    def __init__(self, channels: int, out: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = SpectralConv2d(channels, out, 3)
        self.conv2 = SpectralConv2d(out, out, 3)
        self.skip = SpectralConv2d(channels, out, 1) if down or channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        h = self.conv2(F.relu(self.conv1(x)))
        x = x if self.skip is None else self.skip(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(x, 2) if self.down else h + x
