"""Backbones with a feature pyramid, and where in them attention stands.

Places are ``res2`` … ``res5`` (behind the last block of a stage, so that later stages see it) and ``fpn1`` … ``fpn5`` (outputs of the pyramid, finest first).
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..._errors import InputError, missing_extra, unknown
from ...attention import config_from_dict

try:
    from torchvision.models import resnet
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
except ImportError as error:
    raise missing_extra("torchvision", "train", "torchvision's detectors") from error

__all__ = ["FPN", "STAGES", "resnet_pyramid", "timm_pyramid"]

STAGES = ("res2", "res3", "res4", "res5")
FPN = ("fpn1", "fpn2", "fpn3", "fpn4", "fpn5")
Mixer = Callable[[int], nn.Module]


class _Mixed(nn.Module):
    """A pyramid whose outputs pass through attention at some levels."""

    def __init__(self, mixers: dict[int, nn.Module]) -> None:
        super().__init__()
        self.mixers = nn.ModuleDict({str(level): mixer for level, mixer in mixers.items()})

    def forward(self, levels: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.mixers[str(number)](value) if str(number) in self.mixers else value for number, (name, value) in enumerate(levels.items())}


class ResNetPyramid(BackboneWithFPN):
    """torchvision's ResNet with a pyramid, under torchvision's names, with attention on some of the pyramid's outputs."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.mixed(super().forward(x))


class TimmPyramid(nn.Module):
    """A network of timm's that gives features, and torchvision's pyramid on them.

    Shape:
        ``(B, in_chans, H, W)`` to maps ``(B, width, H / s, W / s)`` by name.
    """

    def __init__(self, body: Any, extra_blocks: ExtraFPNBlock | None, norm_layer: Any, last: nn.Module, mixers: dict[int, nn.Module], width: int) -> None:
        super().__init__()
        self.body, self.last = body, last
        self.out_channels = width
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), self.out_channels, extra_blocks, norm_layer)
        self.mixed = _Mixed(mixers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        maps[-1] = self.last(maps[-1])
        return self.mixed(self.fpn({str(number): value for number, value in enumerate(maps)}))


def resnet_pyramid(
    name: str,
    *,
    in_chans: int,
    places: Sequence[str],
    mixer: Mixer,
    halo_stages: Sequence[int],
    halo: dict[str, Any],
    num_heads: int,
    pretrained: bool,
    trainable: int,
    returned: Sequence[int],
    extra_blocks: ExtraFPNBlock | None,
    norm_layer: Any,
    frozen_norm: bool,
    width: int,
) -> nn.Module:
    """A ResNet of torchvision's with a pyramid.

    Raises:
        ValueError: an unknown network or place, or halo attention in a network without bottlenecks.
    """
    from torchvision.ops.misc import FrozenBatchNorm2d

    known = [key for key in resnet.__all__ if key[0].islower()]
    if name not in known:
        raise unknown("ResNet of torchvision", name, known)
    norm = {"norm_layer": FrozenBatchNorm2d} if frozen_norm else {}
    net = getattr(resnet, name)(weights="IMAGENET1K_V1" if pretrained else None, **norm)
    if in_chans != 3:
        if pretrained:
            raise InputError(f"torchvision's weights are for 3 channels, got {in_chans}; give pretrained=False")
        net.conv1 = nn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
    learned = ("layer4", "layer3", "layer2", "layer1", "conv1", "bn1")[: trainable + (trainable == 5)]
    for key, parameter in net.named_parameters():
        parameter.requires_grad_(key.startswith(learned))
    widths = [net.inplanes // 8 * 2 ** (stage - 1) for stage in returned]
    built: Any = ResNetPyramid(net, {f"layer{stage}": str(number) for number, stage in enumerate(returned)}, widths, width, extra_blocks, norm_layer)
    # what was there is under way already; what comes now is new, and trained wherever it stands
    for stage in halo_stages:
        _to_halo(built.body[f"layer{stage}"], halo, num_heads)
    for place in places:
        if place in STAGES:
            layer = built.body[f"layer{STAGES.index(place) + 1}"]
            layer.append(mixer(_width(layer)))
    built.mixed = _Mixed({FPN.index(place): mixer(width) for place in places if place in FPN})
    return built


def _width(layer: nn.Sequential) -> int:
    block: Any = layer[-1]
    return int((block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels)


def _to_halo(layer: Any, options: dict[str, Any], num_heads: int) -> None:
    """The 3×3 convolutions of a stage of bottlenecks become halo attention of the same width and stride."""
    config = config_from_dict({"attention": "halo_2d", **options})
    for block in layer:
        if not hasattr(block, "conv3"):
            raise InputError("halo attention takes the place of the 3×3 convolution of a bottleneck; choose a ResNet with bottlenecks, such as resnet50")
        conv = block.conv2
        block.conv2 = config.build(conv.in_channels, num_heads=num_heads, stride=conv.stride[0])


def timm_pyramid(
    name: str,
    *,
    in_chans: int,
    places: Sequence[str],
    mixer: Mixer,
    pretrained: bool,
    returned: Sequence[int],
    extra_blocks: Any,
    norm_layer: Any,
    width: int,
) -> nn.Module:
    """A network of timm's with a pyramid; attention behind its last stage or on the pyramid.

    Raises:
        ValueError: timm has no such network, or it gives no features; a place before the last stage.
    """
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "timm", "a backbone of timm's") from error
    inner = sorted(set(places) & set(STAGES[:-1]))
    if inner:
        raise InputError(f"in a backbone of timm's attention stands at res5 or on the pyramid, not at {', '.join(inner)}")
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    try:
        whole: Any = timm.create_model(name, features_only=True, in_chans=in_chans)
    except (AttributeError, RuntimeError) as error:
        raise InputError(f"timm's {name} gives no maps of features ({error}); choose one that does, such as resnet50 or fov_halonet_h0") from error
    reductions = whole.feature_info.reduction()
    stages = [reductions.index(4 * 2 ** (stage - 1)) for stage in returned if 4 * 2 ** (stage - 1) in reductions]
    if len(stages) != len(returned):
        raise InputError(f"{name} has maps {reductions} times smaller than the image, but {[4 * 2 ** (stage - 1) for stage in returned]} are needed")
    body: Any = timm.create_model(name, features_only=True, in_chans=in_chans, out_indices=tuple(stages), pretrained=pretrained)
    last = mixer(body.feature_info.channels()[-1]) if "res5" in places else nn.Identity()
    return TimmPyramid(body, extra_blocks, norm_layer, last, {FPN.index(place): mixer(width) for place in places if place in FPN}, width)
