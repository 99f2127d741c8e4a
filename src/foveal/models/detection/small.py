"""A small detector for laptops, with one map and no anchors.

Papers     Zhou et al., "Objects as Points", 2019 (arXiv 1904.07850): a heat map of centers for each class, its loss, local maxima as objects;
           Tian et al., FCOS, 2019 (arXiv 1904.01355): the four distances to the sides of the box;
           Bolya et al., YOLACT, 2019 (arXiv 1904.02689): masks as sums of prototypes, cut by the box
Differs    The bell around a center has the box's own proportions, a sixth of each side; boxes are learned with generalized IoU, at the center and the cells
           around it; overlapping finds of one class are suppressed.

Shapes     B batch, C channels, K classes, n objects, (h, w) the map, P prototypes
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from .._config import register_model
from ..mixing import FeatureMapConfig
from ..segmentation._size import pad_to
from ..segmentation.small import stack
from ._giou import giou_loss

__all__ = ["SmallDetector", "SmallDetectorNet"]


class SmallDetectorNet(nn.Module):
    """3×3 convolutions, a place where pixels meet, one more convolution, and heads for centers, boxes and masks.

    Args:
        in_chans: channels of the images.
        num_classes: K.
        width: channels inside.
        depth: 3×3 convolutions before the mixing.
        stride: 1, 2, 4 …: how much smaller the map is than the image.
        mixer: ``(B, width, h, w)`` to the same.
        prototypes: P of masks; 0 for boxes alone.
        box_weight: of the loss of boxes beside that of centers.
        most: objects found in an image, at most.
        least_score: below it nothing counts as found.

    Shape:
        Images ``(B, C, H, W)`` or a list of ``(C, H, W)``. In training, with a dict for each image (see :class:`~foveal.lab.data.DetectionBundle`), a dict of
        losses; otherwise for each image ``boxes`` ``(n, 4)``, ``labels`` ``(n,)``, ``scores`` ``(n,)`` falling, and ``masks`` ``(n, H, W)`` bool.
    """

    def __init__(
        self,
        in_chans: int,
        num_classes: int,
        *,
        width: int,
        depth: int,
        stride: int,
        mixer: nn.Module,
        prototypes: int = 0,
        box_weight: float = 0.1,
        most: int = 100,
        least_score: float = 0.02,
    ) -> None:
        super().__init__()
        self.stride, self.box_weight, self.most, self.least_score = stride, box_weight, most, least_score
        self.body = stack(in_chans, width, depth, stride)
        self.mixer = mixer
        self.tail = stack(width, width, 1, 1)
        self.heat = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, num_classes, 1))
        self.sides = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, 4, 1))
        self.weights = nn.Conv2d(width, prototypes, 1) if prototypes else None
        self.prototypes = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, prototypes, 1)) if prototypes else None
        # a probability of a tenth to begin with: nearly all places are no center
        nn.init.constant_(self.heat[-1].bias, -2.19)  # type: ignore[arg-type]

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """What the heads say everywhere, of images whose sides the stride divides: logits of centers, distances in pixels, and for masks weights and
        prototypes at twice the resolution of the map."""
        features = self.tail(self.mixer(self.body(x)))
        found = {"heat": self.heat(features), "sides": F.softplus(self.sides(features)) * self.stride}
        if self.weights is not None and self.prototypes is not None:
            finer = F.interpolate(features, scale_factor=min(2, self.stride), mode="bilinear", align_corners=False)
            found |= {"weights": self.weights(features), "prototypes": self.prototypes(finer)}
        return found

    def forward(self, images: Tensor | list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        found = {name: value.float() for name, value in self.maps(self._batch(images, sizes)).items()}
        if self.training:
            assert targets is not None, "training needs targets"
            return self._losses(found, targets)
        return [self._found({name: value[index] for name, value in found.items()}, size) for index, size in enumerate(sizes)]

    def _batch(self, images: Tensor | list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """One tensor, padded on the right and below with zeros, the mean of standardized images."""
        if isinstance(images, list):
            high, wide = (max(size[axis] for size in sizes) for axis in (0, 1))
            images = torch.stack([F.pad(image, (0, wide - image.shape[-1], 0, high - image.shape[-2])) for image in images])
        return pad_to(images, self.stride)

    # -- training ---------------------------------------------------------------------------------------------------------------------------------

    def _losses(self, found: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        logits = found["heat"]
        _, classes, high, wide = logits.shape
        owner = torch.cat([torch.full_like(target["labels"], index) for index, target in enumerate(targets)])
        labels = torch.cat([target["labels"] for target in targets])
        boxes = torch.cat([target["boxes"] for target in targets]).float()
        count = max(len(labels), 1)
        centers = _within(((boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2 / self.stride).long(), high, wide)

        truth = logits.new_zeros(len(targets) * classes, high, wide)
        spread = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1) / (6 * self.stride)
        rows, columns = (torch.arange(length, device=logits.device) for length in (high, wide))
        down = ((rows - centers[:, :1]) / spread[:, 1:]).square()
        across = ((columns - centers[:, 1:]) / spread[:, :1]).square()
        bells = torch.exp(-(down[:, :, None] + across[:, None, :]) / 2)
        place = (owner * classes + labels).view(-1, 1, 1).expand_as(bells)
        truth = truth.scatter_reduce(0, place, bells, "amax").view_as(logits)
        right, wrong = F.logsigmoid(logits), F.logsigmoid(-logits)
        center = truth == 1
        heat = torch.where(center, right * wrong.exp().square(), wrong * right.exp().square() * (1 - truth).pow(4)).sum() / -count

        steps = torch.arange(-1, 2, device=centers.device)
        near = _within(centers[:, None] + torch.cartesian_prod(steps, steps), high, wide)
        which = owner[:, None].expand(near.shape[:2])
        sides = found["sides"][which, :, near[..., 0], near[..., 1]]
        offered = _boxes(near, sides, self.stride)
        box = giou_loss(offered.flatten(0, 1), boxes[:, None].expand_as(offered).flatten(0, 1)).sum() / (near.shape[1] * count)
        losses = {"heat": heat, "box": self.box_weight * box}
        if self.weights is not None and len(labels):
            losses["mask"] = self._mask_loss(found, targets, owner, centers, boxes)
        return losses

    def _mask_loss(self, found: dict[str, Tensor], targets: list[dict[str, Tensor]], owner: Tensor, centers: Tensor, boxes: Tensor) -> Tensor:
        """Cross-entropy inside each box, a mean over its pixels and over objects."""
        if any("masks" not in target for target in targets):
            raise InputError("this detector learns masks, and the targets have none; give the task masks=True, or the model masks=False")
        truth = torch.cat([F.pad(t["masks"].float(), self._rest(t["masks"], found["heat"])) for t in targets])
        weights = found["weights"][owner, :, centers[:, 0], centers[:, 1]]
        logits = _summed(weights, found["prototypes"][owner], truth.shape[-2:])
        inside = _inside(boxes, truth.shape[-2:])
        each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * inside
        return (each.sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)).mean()

    def _rest(self, masks: Tensor, heat: Tensor) -> tuple[int, int, int, int]:
        return 0, heat.shape[-1] * self.stride - masks.shape[-1], 0, heat.shape[-2] * self.stride - masks.shape[-2]

    # -- evaluation -------------------------------------------------------------------------------------------------------------------------------

    def _found(self, found: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        from torchvision.ops import batched_nms, clip_boxes_to_image

        scores = found["heat"].sigmoid()
        peaks = scores * (scores == F.max_pool2d(scores, 3, stride=1, padding=1))
        values, places = peaks.flatten().topk(min(self.most, peaks.numel()))
        values, places = values[values > self.least_score], places[values > self.least_score]
        labels, cells = places // peaks[0].numel(), places % peaks[0].numel()
        at = torch.stack([cells // peaks.shape[-1], cells % peaks.shape[-1]], -1)
        boxes = clip_boxes_to_image(_boxes(at, found["sides"][:, at[:, 0], at[:, 1]].T, self.stride), size)
        kept = batched_nms(boxes, values, labels, 0.6)
        out = {"boxes": boxes[kept], "labels": labels[kept], "scores": values[kept]}
        if self.weights is not None:
            at = at[kept]
            whole = tuple(side * self.stride for side in peaks.shape[-2:])
            logits = _summed(found["weights"][:, at[:, 0], at[:, 1]].T, found["prototypes"].expand(len(kept), -1, -1, -1), whole)
            out["masks"] = ((logits > 0) & _inside(out["boxes"], whole))[:, : size[0], : size[1]]
        return out


def _within(cells: Tensor, high: int, wide: int) -> Tensor:
    """Rows and columns ``(…, 2)``, moved into the map."""
    rows, columns = cells.unbind(-1)
    return torch.stack([rows.clamp(0, high - 1), columns.clamp(0, wide - 1)], -1)


def _boxes(cells: Tensor, sides: Tensor, stride: int) -> Tensor:
    """From cells ``(…, 2)``, row and column, and distances to left, top, right and bottom ``(…, 4)``."""
    middle = (cells.flip(-1) + 0.5) * stride
    return torch.cat([middle - sides[..., :2], middle + sides[..., 2:]], -1)


def _summed(weights: Tensor, prototypes: Tensor, size: Any) -> Tensor:
    """Logits of masks ``(n, H, W)`` from ``(n, P)`` and ``(n, P, h, w)``."""
    logits = torch.einsum("np,nphw->nhw", weights, prototypes)
    return F.interpolate(logits[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _inside(boxes: Tensor, size: Any) -> Tensor:
    """Which pixels have their middle in each box, ``(n, H, W)``."""
    y, x = (torch.arange(length, device=boxes.device) + 0.5 for length in size)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]


@register_model
@dataclass(frozen=True, kw_only=True)
class SmallDetector(FeatureMapConfig):
    """The small detector for laptops."""

    targets: ClassVar[str] = "boxes"
    about: ClassVar[str] = "a small detector without anchors"

    ranges: ClassVar[Mapping[str, Range]] = {"prototypes": Range(at_least=0), "box_weight": Range(at_least=0)}

    width: int = 32
    """Channels."""
    depth: int = 4
    """3×3 convolutions before the place of the attention."""
    stride: int = 4
    """Pixels from one place of the feature map to the next."""
    prototypes: int = 0
    """Of masks; 0 for boxes alone."""
    box_weight: float = 0.1
    """Of the loss of boxes beside that of centers, as in the first of the papers. With 1 the noise of boxes was seen to hide what labels depend on."""

    def build(self, *, img_size: int, in_chans: int, num_classes: int) -> SmallDetectorNet:
        """The network.

        Raises:
            ValueError: a width or depth below 1, a stride that is no power of 2 or more than the convolutions can halve.
        """
        try:
            import torchvision  # noqa: F401
        except ImportError as error:
            raise missing_extra("torchvision", "train", "detection") from error
        if (
            min(self.width, self.depth, self.stride) < 1
            or self.prototypes < 0
            or self.box_weight < 0
            or self.stride & (self.stride - 1)
            or self.stride.bit_length() - 1 > self.depth
        ):
            raise InputError(
                f"expected width and depth of at least 1, a stride out of 1, 2, 4 … 2^depth, prototypes and box_weight of at least 0, got {self.width}, "
                f"{self.depth}, {self.stride}, {self.prototypes} and {self.box_weight}"
            )
        return SmallDetectorNet(
            in_chans,
            num_classes,
            width=self.width,
            depth=self.depth,
            stride=self.stride,
            mixer=self.mixer(self.width),
            prototypes=self.prototypes,
            box_weight=self.box_weight,
        )
