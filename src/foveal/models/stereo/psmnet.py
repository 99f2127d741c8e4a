"""PSMNet: features with a pyramid of pooled contexts, a volume of matching features over disparities, 3-D convolutions, and the mean disparity.

Paper      Chang and Chen, "Pyramid Stereo Matching Network", CVPR 2018 (arXiv 1803.08669), table 1 and figure 1; with efficient attention: Shen et al.,
           "Efficient Attention: Attention with Linear Complexities", WACV 2021 (arXiv 1812.01243), EA-PSMNet
Official   JiaRenChang/PSMNet; no code of EA-PSMNet is public
Differs    Where efficient attention stands in EA-PSMNet is not published beyond "a single module": both places here are ours. Stages 3 and 4 are dilated by 1
           and 2 as in the official code (the paper's table says 2 and 4). Both images pass the features in one batch. Images of any size: padded below and
           on the right to multiples of 16 and cropped, and a pooling window that is larger than the maps becomes as large as they are. Maps are enlarged
           with aligned corners, as PyTorch did by default
           when the paper was written. In evaluation only the last cost is computed to the end.

Shapes     B batch, C channels, H height, W width, D disparities, K heads
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..._errors import InputError
from ..._weights import fill, read_weights
from .._config import Arm, register_model
from ..mixing import FeatureMapConfig
from ..segmentation._size import pad_to, resize
from ._aggregation import Basic, StackedHourglass, conv3d

__all__ = ["PSMNet", "PyramidStereoNet", "cost_volume"]

Place = Literal["features", "volume"]
MULTIPLE = 16
"""Images are read at a quarter of their size, and hourglasses halve that twice."""


def cost_volume(left: Tensor, right: Tensor, disparities: int) -> Tensor:
    """Features of each left pixel beside those of the right pixel that lies ``d`` to the left of its place, zeros where that is outside.

    Args:
        left: ``(B, C, H, W)``.
        right: likewise.
        disparities: D, that is d from 0 to D − 1.

    Returns:
        ``(B, 2C, D, H, W)``.
    """
    width = left.shape[-1]
    # windows over the padded right image start at x − D + 1 … x: turned round, the d-th is the image moved by d
    moved = F.pad(right, (disparities - 1, 0)).unfold(-1, width, 1).flip(-2)
    inside = torch.arange(width, device=left.device) >= torch.arange(disparities, device=left.device)[:, None]
    pairs = torch.cat([left.unsqueeze(-2) * inside, moved], dim=1)
    return rearrange(pairs, "b c h d w -> b c d h w")


def _conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(out_channels))


class _Block(nn.Module):
    """Two convolutions and a residual, without an activation behind the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_conv(in_channels, out_channels, stride=stride, dilation=dilation), nn.ReLU(inplace=True))
        self.conv2 = _conv(out_channels, out_channels, dilation=dilation)
        self.shortcut = nn.Identity() if in_channels == out_channels and stride == 1 else _conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv2(self.conv1(x))


class PyramidFeatures(nn.Module):
    """A residual network at a quarter of the size, with means over windows of several sizes beside its maps.

    Shape:
        ``(B, in_chans, H, W) -> (B, width, H / 4, W / 4)``.
    """

    def __init__(self, in_chans: int, width: int, blocks: Sequence[int], pools: Sequence[int]) -> None:
        super().__init__()
        stem = []
        for number in range(3):
            stem += [_conv(width if number else in_chans, width, stride=1 if number else 2), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem)
        settings = zip((width, 2 * width, 4 * width, 4 * width), blocks, (1, 2, 1, 1), (1, 1, 1, 2), strict=True)
        stages, before = [], width
        for channels, count, stride, dilation in settings:
            stages.append(nn.Sequential(*(_Block(channels if n else before, channels, 1 if n else stride, dilation) for n in range(count))))
            before = channels
        self.stages = nn.ModuleList(stages)
        self.pools = tuple(pools)
        self.branches = nn.ModuleList(nn.Sequential(_conv(before, width, 1), nn.ReLU(inplace=True)) for _ in pools)
        joined = 2 * width + before + width * len(pools)
        self.fuse = nn.Sequential(_conv(joined, 4 * width), nn.ReLU(inplace=True), nn.Conv2d(4 * width, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.stages
        shallow = second(first(self.stem(x)))
        deep = fourth(third(shallow))
        height, width = deep.shape[-2:]
        contexts = []
        for side, branch in zip(self.pools, self.branches, strict=True):
            pooled = branch(F.avg_pool2d(deep, (min(side, height), min(side, width))))
            contexts.append(resize(pooled, (height, width), align_corners=True))
        return self.fuse(torch.cat([shallow, deep, *contexts], dim=1))


class PyramidStereoNet(nn.Module):
    """The network of PSMNet.

    Args:
        in_chans: channels of one image.
        width: of the features; 32 in the paper.
        blocks: residual blocks of the four stages.
        pools: sides of the windows of the pyramid, in pixels of the maps.
        max_disparity: a multiple of 16. Disparities are found from 0 to one less.
        aggregation: ``"hourglass"`` for three stacked hourglasses, ``"basic"`` for plain residual convolutions.
        feature_mixer: ``(B, width, h, w)`` to the same, on the features of both images; the identity in the paper.
        volume_mixer: likewise on the volume, whose disparities and rows stand below each other, ``(B, width, D·h, w)``.

    Shape:
        ``(B, 2 · in_chans, H, W) -> (B, K, H, W)``: left image and right image, one behind the other, to disparities in pixels of the left image. K is 3 for
        ``"hourglass"`` in training, where every hourglass has its answer and the last is the final one, and else 1. Any H and W.
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        width: int = 32,
        blocks: Sequence[int] = (3, 16, 3, 3),
        pools: Sequence[int] = (64, 32, 16, 8),
        max_disparity: int = 192,
        aggregation: Literal["hourglass", "basic"] = "hourglass",
        feature_mixer: nn.Module | None = None,
        volume_mixer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.max_disparity = max_disparity
        self.features = PyramidFeatures(in_chans, width, blocks, pools)
        self.feature_mixer = feature_mixer or nn.Identity()
        self.enter = nn.Sequential(conv3d(2 * width, width), nn.ReLU(inplace=True), conv3d(width, width), nn.ReLU(inplace=True))
        self.refine = nn.Sequential(conv3d(width, width), nn.ReLU(inplace=True), conv3d(width, width))
        self.volume_mixer = volume_mixer or nn.Identity()
        self.aggregate = StackedHourglass(width) if aggregation == "hourglass" else Basic(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions of features, volume and aggregation from N(0, 2 / (kernel volume · output channels)), the official code's; mixers keep their own."""
        for part in (self.features, self.enter, self.refine, self.aggregate):
            for module in part.modules():
                # transposed convolutions keep PyTorch's initialization there as well
                if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                    fan = module.out_channels * module.weight[0, 0].numel()
                    nn.init.normal_(module.weight, std=(2 / fan) ** 0.5)

    def forward(self, pair: Tensor) -> Tensor:
        if pair.ndim != 4 or pair.shape[1] % 2:
            raise InputError(f"a stereo network expects both images as (B, 2 · C, H, W), left before right, got {tuple(pair.shape)}")
        height, width = pair.shape[-2:]
        # both images in one batch: they share weights, and in training the statistics of batch norm
        views = torch.cat(pad_to(pair, MULTIPLE).chunk(2, dim=1))
        left, right = self.feature_mixer(self.features(views)).chunk(2)
        volume = self.enter(cost_volume(left, right, self.max_disparity // 4))
        volume = self._mixed(volume + self.refine(volume))
        return torch.cat([self._disparity(cost) for cost in self.aggregate(volume)], dim=1)[..., :height, :width]

    def _mixed(self, volume: Tensor) -> Tensor:
        depth = volume.shape[2]
        return rearrange(self.volume_mixer(rearrange(volume, "b c d h w -> b c (d h) w")), "b c (d h) w -> b c d h w", d=depth)

    def _disparity(self, cost: Tensor) -> Tensor:
        """``(B, 1, D / 4, H / 4, W / 4)`` to ``(B, 1, H, W)``: the mean of disparities under a softmax of the enlarged cost, in float32."""
        size = (self.max_disparity, 4 * cost.shape[-2], 4 * cost.shape[-1])
        weights = F.interpolate(cost.float(), size=size, mode="trilinear", align_corners=True).softmax(2)
        places = torch.arange(self.max_disparity, device=cost.device, dtype=weights.dtype)
        return (weights * places.view(1, 1, -1, 1, 1)).sum(2)


@register_model
@dataclass(frozen=True, kw_only=True)
class PSMNet(FeatureMapConfig):
    """PSMNet with any attention or none, on the features of the images or on the volume of costs.

    The defaults are the paper's with one efficient attention module; ``attention=None`` is the paper. The place is ours: that of EA-PSMNet is not published.
    """

    targets: ClassVar[str] = "disparity"
    about: ClassVar[str] = "a pyramid stereo matching network"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "pointwise", "external_2d", "efficient_2d", "linear_2d")

    attention: str | None = "efficient_2d"
    place: Place = "features"
    """On the features of both images, pixels as tokens, or on the volume, where a token is a pixel at a disparity."""
    width: int = 32
    """Channels of the features."""
    blocks: tuple[int, ...] = (3, 16, 3, 3)
    """Residual blocks of the four stages."""
    pools: tuple[int, ...] = (64, 32, 16, 8)
    """Sides of the windows of the pyramid, at a quarter of the image's size."""
    max_disparity: int = 192
    """Disparities that can be answered lie below; a multiple of 16."""
    aggregation: Literal["hourglass", "basic"] = "hourglass"
    """How the volume of costs is filtered: three stacked hourglasses, or residual blocks."""
    start: Path | None = None
    """A ``model.safetensors`` of a run of the same network, to be tuned further."""

    def __post_init__(self) -> None:
        if self.max_disparity < MULTIPLE or self.max_disparity % MULTIPLE:
            raise InputError(f"expected max_disparity to be a multiple of {MULTIPLE}, got {self.max_disparity}")
        if len(self.blocks) != 4 or not self.pools or min(self.width, *self.blocks, *self.pools) < 1:
            raise InputError(f"expected a width, blocks of four stages and pools of at least 1, got {self.width}, {self.blocks} and {self.pools}")
        if self.place == "volume" and self.attention == "halo_2d":
            raise InputError("halo attention has neighbors in height and width alone, a volume has disparities too; place it on features, or choose another")

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> PyramidStereoNet:
        """The network.

        Raises:
            ValueError: an odd number of channels, which are not two images; an attention that does not fit; weights to start from that are not there or are
                another network's.
        """
        if in_chans < 2 or in_chans % 2:
            raise InputError(f"expected the channels of two images, got {in_chans}")
        options: dict[str, Any] = {name: getattr(self, name) for name in ("width", "blocks", "pools", "max_disparity", "aggregation")}
        if self.attention is not None:
            options[{"features": "feature_mixer", "volume": "volume_mixer"}[self.place]] = self.mixer(self.width)
        net = PyramidStereoNet(in_chans // 2, **options)
        if self.start is not None:
            start = Path(self.start)
            fill(net, read_weights(start), start, "attention, place and sizes must be those of its run")
        return net

    def smoke_model(self) -> "PSMNet":
        return replace(self, width=8, blocks=(1, 1, 1, 1), pools=(8, 4), max_disparity=32, start=None)

    def arms(self) -> dict[str, Arm]:
        """Those of every network of maps that fit the place."""
        if self.place == "features":
            return super().arms()
        elsewhere = replace(self, place="features").arms()
        return {name: Arm(name, arm.about, replace(arm.model, place=self.place)) for name, arm in elsewhere.items() if name != "halo_2d"}
