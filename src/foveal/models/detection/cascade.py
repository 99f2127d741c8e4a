"""Heads of regions in a row, each trained on what the one before it made better.

Paper      Cai & Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018 (arXiv 1712.00726)
Official   zhaoweicai/cascade-rcnn (Caffe); built from the description on torchvision's parts
Formula    stage t refines the boxes of stage t − 1 and is trained with objects that overlap by 0.5, 0.6, 0.7; its offsets are in units of 1/10, 1/20, 1/30
           of a box (1/5, 1/10, 1/15 for its sides); losses count 1, 1/2, 1/4; a class score is the mean over stages
Differs    Offsets are the same for all classes, as later implementations have them. Each stage scores the boxes that it was given; the last boxes get the mean.
           The mask head, if any, is trained with the regions of the first stage.

Shapes     R regions, K classes and the background
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import clip_boxes_to_image

__all__ = ["CascadeHeads"]

_OVERLAPS = (0.5, 0.6, 0.7)
_SHARES = (1.0, 0.5, 0.25)


class CascadePredictor(nn.Module):
    """Scores of all classes, and one offset for all."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes)
        self.bbox_pred = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


class CascadeHeads(RoIHeads):
    """torchvision's heads of regions with three stages. Masks are the plain heads' affair.

    Args:
        heads: three, features of regions to ``(R, channels)``; the first and the predictor of it stand under torchvision's names.
        num_classes: with the background.
        plain: what torchvision's ``RoIHeads`` takes, without box head, predictor and thresholds.
    """

    def __init__(self, heads: list[nn.Module], channels: int, num_classes: int, **plain: Any) -> None:
        first, *rest = heads
        predictors = [CascadePredictor(channels, num_classes) for _ in heads]
        super().__init__(box_head=first, box_predictor=predictors[0], fg_iou_thresh=_OVERLAPS[0], bg_iou_thresh=_OVERLAPS[0], bbox_reg_weights=None, **plain)
        self.later_heads, self.later_predictors = nn.ModuleList(rest), nn.ModuleList(predictors[1:])
        self.coders = [BoxCoder((10.0 * n, 10.0 * n, 5.0 * n, 5.0 * n)) for n in (1, 2, 3)]
        self.matchers = [Matcher(overlap, overlap, allow_low_quality_matches=False) for overlap in _OVERLAPS]

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        losses: dict[str, Tensor] = {}
        scores: list[Tensor] = []
        first: Any = None
        heads = zip((self.box_head, *self.later_heads), (self.box_predictor, *self.later_predictors), strict=True)
        for stage, (head, predictor) in enumerate(heads):
            if self.training:
                assert targets is not None, "training needs targets"
                chosen = self._given(stage, proposals, targets)
                proposals, matched, labels, wanted = chosen
                first = (proposals, matched, labels) if stage == 0 else first
            logits, offsets = predictor(head(self.box_roi_pool(features, proposals, image_shapes)))
            if self.training:
                losses |= {f"{name}_{stage + 1}": _SHARES[stage] * loss for name, loss in _losses(logits, offsets, labels, wanted).items()}
            scores.append(logits.softmax(-1))
            proposals = self._refined(stage, offsets.detach(), proposals, image_shapes)
        found = [] if self.training else self._found(torch.stack(scores).mean(0), proposals)
        if self.has_mask():
            self._masks(features, image_shapes, targets, first, found, losses)
        return found, losses

    def _given(self, stage: int, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        """Regions with objects and offsets to them. The first stage draws a sample, the others take what it left."""
        self.proposal_matcher, self.box_coder = self.matchers[stage], self.coders[stage]
        if stage == 0:
            return self.select_training_samples(proposals, targets)
        truth = [target["boxes"].to(proposals[0].dtype) for target in targets]
        matched, labels = self.assign_targets_to_proposals(proposals, truth, [target["labels"] for target in targets])
        near = [boxes[own] if len(boxes) else torch.zeros_like(given) for boxes, own, given in zip(truth, matched, proposals, strict=True)]
        return proposals, matched, labels, self.box_coder.encode(near, proposals)

    def _refined(self, stage: int, offsets: Tensor, proposals: list[Tensor], shapes: list[tuple[int, int]]) -> list[Tensor]:
        decoded = self.coders[stage].decode(offsets, proposals)[:, 0]
        boxes = [clip_boxes_to_image(own, shape) for own, shape in zip(decoded.split([len(own) for own in proposals]), shapes, strict=True)]
        # a box that was pressed flat cannot be encoded, nor pooled; it stays what it was
        return [torch.where((new[:, 2:] - new[:, :2]).amin(1, keepdim=True) > 1e-2, new, old) for new, old in zip(boxes, proposals, strict=True)]

    def _found(self, scores: Tensor, boxes: list[Tensor]) -> list[dict[str, Tensor]]:
        """torchvision's choice among scored boxes; it wants logits, and offsets for every class, which here are none."""
        self.box_coder = self.coders[0]
        nothing = scores.new_zeros(len(scores), 4 * scores.shape[-1])
        shapes = [(10**9, 10**9)] * len(boxes)
        chosen = self.postprocess_detections(scores.clamp_min(1e-12).log(), nothing, boxes, shapes)
        return [{"boxes": own, "scores": score, "labels": label} for own, score, label in zip(*chosen, strict=True)]

    def _masks(self, features: Any, shapes: Any, targets: Any, first: Any, found: list[dict[str, Tensor]], losses: dict[str, Tensor]) -> None:
        from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss

        if self.training:
            proposals, matched, labels = first
            there = [own > 0 for own in labels]
            regions = [own[one] for own, one in zip(proposals, there, strict=True)]
        else:
            regions = [own["boxes"] for own in found]
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, regions, shapes)))
        if self.training:
            own = [matches[one] for matches, one in zip(matched, there, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(logits, regions, [t["masks"] for t in targets], [t["labels"] for t in targets], own)
        else:
            for masks, entry in zip(maskrcnn_inference(logits, [entry["labels"] for entry in found]), found, strict=True):
                entry["masks"] = masks


def _losses(logits: Tensor, offsets: Tensor, labels: list[Tensor], wanted: list[Tensor]) -> dict[str, Tensor]:
    """Cross-entropy over regions, and smooth L1 of offsets where there is an object, over all regions."""
    called, target = torch.cat(labels), torch.cat(list(wanted))
    there = called > 0
    box = F.smooth_l1_loss(offsets[there], target[there], beta=1 / 9, reduction="sum") / max(called.numel(), 1)
    return {"loss_classifier": F.cross_entropy(logits, called), "loss_box_reg": box}
