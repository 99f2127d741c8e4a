"""A block on maps that knows nothing of the library but its decorator: every pixel gets the mean of all."""

from torch import Tensor, nn

from foveal.attention import register


@register("pixel_mean_2d", family="summary", form="2d")
class PixelMean2d(nn.Module):
    def __init__(self, channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3), keepdim=True).expand_as(x)
