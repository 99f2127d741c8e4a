"""RetinaNet, Faster, Mask and Cascade R-CNN with a ResNet and a feature pyramid, and attention in the places where the papers put it.

Papers     Lin et al. 2017 (RetinaNet, arXiv 1708.02002), Ren et al. 2015 (1506.01497), He et al. 2017 (1703.06870), Cai & Vasconcelos 2018 (1712.00726);
           external attention behind stage 5: Guo et al. 2021 (2105.02358); efficient attention in stages and pyramid: Shen et al. 2021 (1812.01243);
           halo attention for the 3×3 convolutions of the last stages: Vaswani et al. 2021 (2103.12731)
Official   torchvision's detectors; the papers' insertions are not released
Differs    How the modules of efficient attention are counted on the pyramid is our reading: fpn1 to fpn5 are its five outputs, the finest first.
           Images come standardized by the data, not by the network. Classes count from 0.
Status     without attention equal to torchvision's networks with their weights; counts of published modules equal
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from .._config import Arm, register_model
from ..mixing import CONTROL, FeatureMapConfig

__all__ = ["EFFICIENT_PLACES", "Detector", "PyramidDetector"]

Host = Literal["retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"]
EFFICIENT_PLACES: dict[int, tuple[str, ...]] = {
    1: ("res3",),
    5: ("res3", "res4", "fpn3", "fpn4", "fpn5"),
    7: ("res3", "res4", "fpn1", "fpn2", "fpn3", "fpn4", "fpn5"),
}
"""Where the modules of efficient attention stand, by their number (Shen et al.)."""
_REGIONS, _MASKS = 1000, 100
"""How many regions the counted cost is of."""


class Detector(nn.Module):
    """A detector of torchvision's in Foveal's terms: classes from 0, masks as bool, batches as tensors or lists.

    Shape:
        Images ``(B, C, H, W)`` or a list of ``(C, H, W)``. In training, with a dict for each image, a dict of losses; otherwise for each image ``boxes``,
        ``labels``, ``scores`` and, where there is a mask head, ``masks`` ``(n, H, W)`` bool.
    """

    def __init__(self, net: Any, *, background: bool) -> None:
        super().__init__()
        self.net = net
        self.first = int(background)

    @property
    def has_masks(self) -> bool:
        return hasattr(self.net, "roi_heads") and self.net.roi_heads.has_mask()

    def forward(self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if self.training:
            assert targets is not None, "training needs targets"
            if self.has_masks and any("masks" not in target for target in targets):
                raise InputError("this detector learns masks, and the targets have none; give the task masks=True, or choose faster_rcnn or cascade_rcnn")
            wanted = [target | {"labels": target["labels"] + self.first} for target in targets]
            return self.net(list(images), [{**t, "masks": t["masks"].to(torch.uint8)} if "masks" in t else t for t in wanted])
        found = self.net(list(images))
        for entry in found:
            entry["labels"] = entry["labels"] - self.first
            if "masks" in entry:
                entry["masks"] = entry["masks"][:, 0] > 0.5
        return found

    def maps(self, images: Tensor) -> list[Tensor]:
        """What is done whatever is found, for the count of multiply-adds: backbone, pyramid, dense heads, and heads of 1,000 regions and 100 masks."""
        features = self.net.backbone(images)
        levels = list(features.values())
        if not hasattr(self.net, "roi_heads"):
            return list(self.net.head(levels).values())
        regions, width = self.net.roi_heads, self.net.backbone.out_channels
        out = [level for part in self.net.rpn.head(levels) for level in part]
        pairs = [(regions.box_head, regions.box_predictor)]
        pairs += list(zip(getattr(regions, "later_heads", ()), getattr(regions, "later_predictors", ()), strict=True))
        for head, predictor in pairs:
            out += list(predictor(head(images.new_zeros(_REGIONS, width, 7, 7))))
        if self.has_masks:
            out.append(regions.mask_predictor(regions.mask_head(images.new_zeros(_MASKS, width, 14, 14))))
        return out


@register_model
@dataclass(frozen=True, kw_only=True)
class PyramidDetector(FeatureMapConfig):
    """A detector with a feature pyramid. ``places`` says where attention stands; by default behind stage 5, as external attention has it."""

    targets: ClassVar[str] = "boxes"
    about: ClassVar[str] = "a detector with a feature pyramid"
    default_arms: ClassVar[tuple[str, ...]] = ("none", CONTROL, "external_2d", "efficient_2d")

    host: Host = "mask_rcnn"
    """Which detector."""
    backbone: str = "resnet50"
    """A ResNet of torchvision's, or ``timm:NAME`` for a network of timm's that gives features, Foveal's own among them."""
    version: Literal[1, 2] = 1
    """2: torchvision's later heads, with norms and convolutions."""
    places: tuple[str, ...] = ("res5",)
    """Out of ``res2`` … ``res5`` and ``fpn1`` … ``fpn5``."""
    halo_stages: tuple[int, ...] = ()
    """Stages 1 to 4 of a ResNet whose 3×3 convolutions become halo attention, of 8 heads and blocks of 8 with a halo of 3."""
    min_size: int = 800
    """To which the shorter side is resized …"""
    max_size: int = 1333
    """… unless the longer one would pass this."""
    anchor_scale: float = 1.0
    """Anchors are 32 to 512 pixels times this."""
    pyramid_width: int = 256
    """Channels of the pyramid, and of the heads on it; behind their fully connected layers there are four times as many."""
    regions: int = 512
    """Of an image that the heads of boxes learn from."""
    pretrained: bool = False
    """Start the backbone from ImageNet weights, which are downloaded; its norms are then frozen in version 1, and the first two stages do not move."""

    def __post_init__(self) -> None:
        from .places import FPN, STAGES

        strangers = set(self.places) - {*STAGES, *FPN}
        if strangers or len(set(self.places)) < len(self.places):
            raise InputError(f"places must be among {', '.join((*STAGES, *FPN))}, each once, got {', '.join(self.places)}")
        if not set(self.halo_stages) <= {1, 2, 3, 4} or (self.halo_stages and self.backbone.startswith("timm:")):
            raise InputError(f"halo_stages must be among 1 to 4 of a ResNet of torchvision's, got {self.halo_stages} of {self.backbone}")
        if min(self.min_size, self.max_size, self.pyramid_width, self.regions) < 1 or self.anchor_scale <= 0:
            raise InputError(f"expected sizes of at least 1, pyramid_width and regions likewise, and an anchor_scale above 0, got {self}")

    def arms(self) -> dict[str, Arm]:
        """Those of every network of maps, and halo attention in the last stage or the last two in the place of 3×3 convolutions."""
        found = {name: _without_halo(arm) for name, arm in super().arms().items()}
        if not self.backbone.startswith("timm:"):
            for stages, name in (((4,), "halo-last"), ((3, 4), "halo-last-two")):
                about = f"halo attention for the 3×3 convolutions of {'the last stage' if len(stages) == 1 else 'the last two stages'}"
                found[name] = Arm(name, about, replace(self, attention=None, options=None, halo_stages=stages))
        return found

    def smoke_model(self) -> "PyramidDetector":
        """For images of 48 pixels: narrow heads that learn from few regions, on a ResNet-18, or on the same network where only that has the places."""
        backbone = self.backbone if self.halo_stages or self.backbone.startswith("timm:") else "resnet18"
        return replace(self, backbone=backbone, min_size=48, max_size=96, anchor_scale=0.25, pyramid_width=32, regions=32, pretrained=False)

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> Detector:
        """The network.

        Raises:
            ValueError: an unknown backbone, attention or option, channels that pretrained weights do not have.
        """
        try:
            from torchvision.models.detection import FasterRCNN, MaskRCNN
        except ImportError as error:
            raise missing_extra("torchvision", "train", "torchvision's detectors") from error
        common: dict[str, Any] = {
            "min_size": self.min_size,
            "max_size": self.max_size,
            # the data are standardized already
            "image_mean": [0.0] * in_chans,
            "image_std": [1.0] * in_chans,
        }
        backbone = self._backbone(in_chans)
        if self.host == "retinanet":
            return Detector(self._retinanet(backbone, num_classes, common), background=False)
        masks = self.host in ("mask_rcnn", "cascade_mask_rcnn")
        net: Any = (MaskRCNN if masks else FasterRCNN)(backbone, **self._parts(masks, num_classes + 1), **common)
        if self.host.startswith("cascade"):
            net.roi_heads = self._cascade(net.roi_heads, num_classes + 1)
        return Detector(net, background=True)

    def _backbone(self, in_chans: int) -> nn.Module:
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

        from .places import resnet_pyramid, timm_pyramid

        retina = self.host == "retinanet"
        returned = (2, 3, 4) if retina else (1, 2, 3, 4)
        places = self.places if self.attention is not None else ()
        norm, width = nn.BatchNorm2d if self.version == 2 and not retina else None, self.pyramid_width
        shared: dict[str, Any] = {
            "in_chans": in_chans,
            "places": places,
            "mixer": self.mixer,
            "pretrained": self.pretrained,
            "returned": returned,
            "width": width,
        }
        if self.backbone.startswith("timm:"):
            extra = LastLevelP6P7(width, width) if retina else LastLevelMaxPool()
            return timm_pyramid(self.backbone.removeprefix("timm:"), extra_blocks=extra, norm_layer=norm, **shared)
        # version 1 makes levels 6 and 7 of the pyramid's last map, version 2 of stage 5
        extra = LastLevelP6P7(2048 if self.version == 2 else width, width) if retina else LastLevelMaxPool()
        return resnet_pyramid(
            self.backbone,
            halo_stages=self.halo_stages,
            halo={"block_size": 8, "halo_size": 3},
            num_heads=8,
            trainable=3 if self.pretrained else 5,
            frozen_norm=self.pretrained and self.version == 1,
            extra_blocks=extra,
            norm_layer=norm,
            **shared,
        )

    def _anchors(self, octaves: bool) -> Any:
        from torchvision.models.detection.anchor_utils import AnchorGenerator

        bases = [self.anchor_scale * size for size in (32, 64, 128, 256, 512)]
        sizes = tuple((base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))) if octaves else (base,) for base in bases)
        return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))

    def _retinanet(self, backbone: nn.Module, num_classes: int, common: dict[str, Any]) -> nn.Module:
        from torchvision.models.detection import RetinaNet
        from torchvision.models.detection.retinanet import RetinaNetHead

        anchors = self._anchors(octaves=True)
        norm = {"norm_layer": partial(nn.GroupNorm, 32)} if self.version == 2 else {}
        head = RetinaNetHead(self.pyramid_width, anchors.num_anchors_per_location()[0], num_classes, **norm)
        if self.version == 2:
            head.regression_head._loss_type = "giou"
        return RetinaNet(backbone, num_classes, anchor_generator=anchors, head=head, **common)

    def _box_head(self) -> nn.Module:
        from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

        width = self.pyramid_width
        if self.version == 2:
            return FastRCNNConvFCHead((width, 7, 7), [width] * 4, [4 * width], norm_layer=nn.BatchNorm2d)
        return TwoMLPHead(width * 7 * 7, 4 * width)

    def _parts(self, masks: bool, num_classes: int) -> dict[str, Any]:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
        from torchvision.models.detection.rpn import RPNHead

        anchors, width = self._anchors(octaves=False), self.pyramid_width
        parts: dict[str, Any] = {
            "rpn_anchor_generator": anchors,
            "rpn_head": RPNHead(width, anchors.num_anchors_per_location()[0], conv_depth=self.version),
            "box_head": self._box_head(),
            "box_predictor": FastRCNNPredictor(4 * width, num_classes),
            "box_batch_size_per_image": self.regions,
        }
        if masks:
            parts["mask_head"] = MaskRCNNHeads(width, [width] * 4, 1, norm_layer=nn.BatchNorm2d if self.version == 2 else None)
            parts["mask_predictor"] = MaskRCNNPredictor(width, width, num_classes)
        return parts

    def _cascade(self, plain: Any, num_classes: int) -> nn.Module:
        """The same heads three times, without shared weights."""
        from .cascade import CascadeHeads

        sampler = plain.fg_bg_sampler
        return CascadeHeads(
            [plain.box_head, self._box_head(), self._box_head()],
            4 * self.pyramid_width,
            num_classes,
            box_roi_pool=plain.box_roi_pool,
            batch_size_per_image=sampler.batch_size_per_image,
            positive_fraction=sampler.positive_fraction,
            score_thresh=plain.score_thresh,
            nms_thresh=plain.nms_thresh,
            detections_per_img=plain.detections_per_img,
            mask_roi_pool=plain.mask_roi_pool,
            mask_head=plain.mask_head,
            mask_predictor=plain.mask_predictor,
        )


def _without_halo(arm: Arm) -> Arm:
    """The same arm with convolutions in the stages: what takes turns is one mechanism."""
    return replace(arm, model=replace(arm.model, halo_stages=()))
