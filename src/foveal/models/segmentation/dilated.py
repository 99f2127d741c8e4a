"""Dilated ResNets with the heads of EANet, FCN and DeepLabV3, each with a place where pixels meet.

Paper      Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks", 2021 (arXiv 2105.02358), section 4.3;
           Long et al. 2015 (FCN); Chen et al. 2017 (DeepLabV3, arXiv 1706.05587)
Official   MenghaoGuo/EANet (segmentation host of XiaLiPKU/EMANet); torchvision for FCN and DeepLabV3
Differs    The mechanism is a choice. FCN and DeepLabV3 are torchvision's heads, with the mixing before the last convolution; the EANet head is the authors'.

Shapes     B batch, C channels, K classes
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from .._config import register_model
from ..mixing import FeatureMapConfig
from ._size import resize

__all__ = ["DilatedNet", "DilatedResNet"]

Head = Literal["eanet", "fcn", "deeplabv3"]


class DilatedNet(nn.Module):
    """Features at a small stride, a head, and its logits enlarged to the image.

    Shape:
        ``(B, in_chans, H, W) -> (B, K, H, W)``, any H and W.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, *, align_corners: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.align_corners = backbone, head, align_corners

    def forward(self, x: Tensor) -> Tensor:
        return resize(self.head(self.backbone.forward_features(x)), (x.shape[-2], x.shape[-1]), align_corners=self.align_corners)  # type: ignore[operator]


@register_model
@dataclass(frozen=True, kw_only=True)
class DilatedResNet(FeatureMapConfig):
    """A dilated ResNet and a head. The defaults are EANet's: deep stem of 128 channels, stride 8, stage 4 dilated by 1, 2, 4 times, 64 slots."""

    targets: ClassVar[str] = "masks"
    about: ClassVar[str] = "a dilated ResNet with a segmentation head"

    ranges: ClassVar[Mapping[str, Range]] = {"multi_grid": Range(at_least=1)}

    attention: str | None = "external_2d"
    backbone: Literal["resnet18", "resnet50", "resnet101"] = "resnet50"
    """Which ResNet."""
    head: Head = "eanet"
    """What stands between the backbone and the classes."""
    output_stride: Literal[8, 16] = 8
    """Pixels from one place of the last feature map to the next."""
    deep_stem: bool = True
    """Three 3×3 convolutions of 64, 64 and 128 channels in place of one 7×7 of 64."""
    multi_grid: tuple[int, int, int] = (1, 2, 4)
    """Dilation of the blocks of stage 4, times that of the stage."""
    dropout: float = 0.1
    """Dropout before the classes."""
    pretrained: bool = False
    """Start the backbone from timm's ImageNet weights, which are downloaded."""

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> DilatedNet:
        """The network.

        Raises:
            ValueError: an output stride other than 8 and 16, a dilation below 1, an attention that does not fit.
        """
        try:
            import timm
        except ImportError as error:
            raise missing_extra("timm", "timm", "a dilated ResNet") from error
        if self.output_stride not in (8, 16) or min(self.multi_grid) < 1:
            raise InputError(f"expected output_stride 8 or 16 and dilations of at least 1, got {self.output_stride} and {self.multi_grid}")
        options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "in_chans": in_chans, "output_stride": self.output_stride}
        # timm's resnet50s and resnet101s have the stem of 64, 64 and 128 channels; of 18 layers it has no such network and no weights for one
        deep_small = self.deep_stem and self.backbone == "resnet18"
        if deep_small:
            if self.pretrained:
                raise InputError("there are no weights for resnet18 with a deep stem; give deep_stem=False or pretrained=False")
            options |= {"stem_width": 64, "stem_type": "deep"}
        name = f"{self.backbone}s" if self.deep_stem and not deep_small else self.backbone
        net: Any = timm.create_model(name, pretrained=self.pretrained, **options)
        # resnet18 has two blocks in stage 4, which take the first two
        for block, factor in zip(net.layer4, self.multi_grid, strict=False):
            dilation = 32 // self.output_stride * factor
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
        make = {"eanet": self._eanet, "fcn": self._fcn, "deeplabv3": self._deeplab}[self.head]
        return DilatedNet(net, make(net.num_features, num_classes), align_corners=self.head == "eanet")

    def smoke_model(self) -> "DilatedResNet":
        return replace(self, backbone="resnet18", pretrained=False)

    def _eanet(self, channels: int, num_classes: int) -> nn.Module:
        return nn.Sequential(*_conv(channels, 512), self.mixer(512), *_conv(512, 256), nn.Dropout2d(self.dropout), nn.Conv2d(256, num_classes, 1))

    def _fcn(self, channels: int, num_classes: int) -> nn.Module:
        inner = channels // 4
        return nn.Sequential(*_conv(channels, inner), self.mixer(inner), nn.Dropout(self.dropout), nn.Conv2d(inner, num_classes, 1))

    def _deeplab(self, channels: int, num_classes: int) -> nn.Module:
        try:
            from torchvision.models.segmentation.deeplabv3 import ASPP
        except ImportError as error:
            raise missing_extra("torchvision", "train", "DeepLabV3's pyramid") from error
        rates = [rate * 16 // self.output_stride for rate in (6, 12, 18)]
        return nn.Sequential(ASPP(channels, rates, 256), self.mixer(256), *_conv(256, 256), nn.Conv2d(256, num_classes, 1))


def _conv(channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
