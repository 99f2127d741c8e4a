"""The two ways in which PSMNet makes a matching cost out of a volume of features. See :mod:`foveal.models.stereo.psmnet`.

Shapes     B batch, C channels, D, H, W disparities, height and width of the volume
"""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Basic", "StackedHourglass", "conv3d"]


def conv3d(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A 3×3×3 convolution and batch norm."""
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False), nn.BatchNorm3d(out_channels))


def _enlarge3d(in_channels: int, out_channels: int) -> nn.Sequential:
    """A transposed convolution that doubles every side, and batch norm."""
    return nn.Sequential(nn.ConvTranspose3d(in_channels, out_channels, 3, 2, padding=1, output_padding=1, bias=False), nn.BatchNorm3d(out_channels))


def _cost_head(channels: int) -> nn.Sequential:
    return nn.Sequential(conv3d(channels, channels), nn.ReLU(inplace=True), nn.Conv3d(channels, 1, 3, padding=1, bias=False))


class Basic(nn.Module):
    """Three more residual pairs of convolutions, and the cost.

    Shape:
        ``(B, C, D, H, W) ->`` a list of one cost ``(B, 1, D, H, W)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(nn.Sequential(conv3d(channels, channels), nn.ReLU(inplace=True), conv3d(channels, channels)) for _ in range(3))
        self.head = _cost_head(channels)

    def forward(self, volume: Tensor) -> list[Tensor]:
        for pair in self.pairs:
            volume = volume + pair(volume)
        return [self.head(volume)]


class StackedHourglass(nn.Module):
    """Three hourglasses one behind the other; each head adds to the cost of the one before.

    Shape:
        ``(B, C, D, H, W) ->`` a list of costs ``(B, 1, D, H, W)``, three in training and the last one else. Sides must be multiples of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hourglasses = nn.ModuleList(_Hourglass(channels) for _ in range(3))
        self.heads = nn.ModuleList(_cost_head(channels) for _ in range(3))

    def forward(self, volume: Tensor) -> list[Tensor]:
        out, first_half, last_up = volume, None, None
        costs: list[Tensor] = []
        for hourglass, head in zip(self.hourglasses, self.heads, strict=True):
            out, half, last_up = hourglass(out, first_half, last_up)
            out = out + volume
            # the second and the third hourglass are both given the first one's way down
            first_half = half if first_half is None else first_half
            costs.append(head(out) + costs[-1] if costs else head(out))
        return costs if self.training else costs[-1:]


class _Hourglass(nn.Module):
    """To a quarter of every side and back. ``last_up`` of the one before is added on the way down, ``first_half`` of the first one on the way up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        twice = 2 * channels
        self.conv1 = nn.Sequential(conv3d(channels, twice, 2), nn.ReLU(inplace=True))
        self.conv2 = conv3d(twice, twice)
        self.conv3 = nn.Sequential(conv3d(twice, twice, 2), nn.ReLU(inplace=True))
        self.conv4 = nn.Sequential(conv3d(twice, twice), nn.ReLU(inplace=True))
        self.conv5 = _enlarge3d(twice, twice)
        self.conv6 = _enlarge3d(twice, channels)

    def forward(self, x: Tensor, first_half: Tensor | None, last_up: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        half = self.conv2(self.conv1(x))
        half = F.relu(half if last_up is None else half + last_up)
        up = self.conv5(self.conv4(self.conv3(half)))
        up = F.relu(up + (half if first_half is None else first_half))
        return self.conv6(up), half, up
