"""Detection: boxes and classes of objects, and their masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ..._errors import InputError, missing_extra
from ...analysis import cost
from ...attention import Cost
from ..data import DataBundle, DetectionBundle
from ._boxes import drawn, matched
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task

__all__ = ["Detection"]


@register_task
@dataclass(frozen=True, kw_only=True)
class Detection(Task):
    """The network's own losses, added; average precision as COCO counts it, by faster-coco-eval.

    Targets are dicts, see :class:`~foveal.lab.data.DetectionBundle`. Images of unlike sizes make a batch that is a list. Crowds are not trained on.

    Raises:
        ValueError: a score out of 0 to 1.
    """

    targets: ClassVar[str] = "boxes"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("ap", "box AP")
    eval_batch_size: ClassVar[int] = 8
    next_commands: ClassVar[tuple[str, ...]] = ("inspect {run} IMAGE",)

    masks: bool = False
    """Learn and judge masks too. Data and model must have them."""
    shown_score: float = 0.3
    """In pictures, objects found with less are left out. Metrics and results hold them all."""

    def __post_init__(self) -> None:
        if not 0 <= self.shown_score <= 1:
            raise InputError(f"shown_score must lie between 0 and 1, got {self.shown_score}")

    # -- training -------------------------------------------------------------------------------------------------------------------------------

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Images as a tensor where sizes are alike, else as a list; targets as a list of dicts."""
        images = [image for image, _ in samples]
        alike = len({image.shape for image in images}) == 1
        return torch.stack(images) if alike else images, [target for _, target in samples]

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        self._check(bundle)
        losses = forward(inputs, [self._learned(target) for target in targets])
        return torch.stack([loss.float() for loss in losses.values()]).sum(), {}

    def _learned(self, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without crowds, whose box is not that of an object, and without masks that are not asked for."""
        names = ["boxes", "labels", *(["masks"] if self.masks else [])]
        one = ~target["iscrowd"].bool() if "iscrowd" in target else slice(None)
        return {name: target[name][one] for name in names}

    def _check(self, bundle: DataBundle) -> None:
        if self.masks and isinstance(bundle, DetectionBundle) and not bundle.masks:
            raise InputError("the task has masks=True, but the data have boxes alone; give --task.masks False, and a model without masks")

    # -- evaluation -----------------------------------------------------------------------------------------------------------------------------

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """Average precision of boxes, and of masks where they are asked for."""
        self._check(bundle)
        try:
            import faster_coco_eval  # noqa: F401
            from torchmetrics.detection import MeanAveragePrecision
        except ImportError as error:
            raise missing_extra("faster-coco-eval", "det", "average precision") from error
        kinds: Any = ("bbox", "segm") if self.masks else ("bbox",)
        # COCO's own thresholds in double precision: with torchmetrics' in single, recalls such as 1/10 fall beside their threshold
        overlaps, recalls = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0, 1, 101).tolist()
        average = MeanAveragePrecision(iou_type=kinds, iou_thresholds=overlaps, rec_thresholds=recalls, extended_summary=True, backend="faster_coco_eval")
        average.warn_on_many_detections = False
        return MetricCollection({"average_precision": average})

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        names = ["boxes", "labels", "scores", *(["masks"] if self.masks else [])]
        if self.masks and any("masks" not in found for found in outputs):
            raise InputError("the task has masks=True, but the network finds boxes alone; give it masks, or --task.masks False")
        judged = ("boxes", "labels", "iscrowd", "area", *(["masks"] if self.masks else []))
        truth = [{name: value for name, value in target.items() if name in judged} for target in targets]
        metrics["average_precision"].update([{name: found[name] for name in names} for found in outputs], truth)

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        """Average precision by name, and by class.

        ``ap`` (mean over IoU 0.5 to 0.95 and classes), ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``, ``recall`` with 100 finds an image; the
        same of masks behind ``mask_``; and by class ``ap``, ``ap50``, ``ap75``. Where there was nothing to find it is None, but 0 for ``ap`` over all.
        """
        values = metrics["average_precision"].compute()
        out: Metrics = {}
        classes: dict[str, dict[str, float | None]] = {name: {} for name in bundle.classes}
        seen = values["classes"].flatten().tolist()
        for kind, before in (("bbox", ""), ("segm", "mask_"))[: 1 + self.masks]:
            prefix = f"{kind}_" if self.masks else ""
            names = {"map": "ap", "map_50": "ap50", "map_75": "ap75", "map_small": "ap_small", "map_medium": "ap_medium", "map_large": "ap_large"}
            for theirs, ours in (names | {"mar_100": "recall"}).items():
                value = values[prefix + theirs].item()
                out[before + ours] = value if value >= 0 else 0.0 if ours == "ap" else None
            # thresholds of IoU 0.5, 0.55 … 0.95, recalls, classes, sizes of which the first is all, numbers of finds of which the last is 100
            precision = values[f"{prefix}precision"]
            for number, name in enumerate(bundle.classes):
                own = precision[:, :, seen.index(number), 0, -1] if number in seen else None
                for ours, part in (("ap", slice(None)), ("ap50", slice(0, 1)), ("ap75", slice(5, 6))):
                    there = own is not None and bool((own > -1).any())
                    classes[name][before + ours] = own[part].mean().item() if own is not None and there else None
        return {**out, "per_class": classes}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Parameters of the network, and multiply-adds of what it does everywhere in an image: the heads of regions count for as many as they are given."""
        counted = cost(_Everywhere(model), (bundle.in_chans, bundle.img_size, bundle.img_size))
        return Cost(parameters=sum(parameter.numel() for parameter in model.parameters()), macs=counted.macs)

    def results(self, outputs: Any, targets: Any, bundle: DataBundle) -> list[dict[str, Any]]:
        """What was found in a batch, in COCO's format of results: ``bbox`` as left, top, width, height, masks run-length encoded."""
        ids = (bundle.category_ids if isinstance(bundle, DetectionBundle) else ()) or tuple(range(1, len(bundle.classes) + 1))
        entries = []
        for found, target in zip(outputs, targets, strict=True):
            left, top, right, bottom = found["boxes"].double().cpu().unbind(1)
            boxes = torch.stack([left, top, right - left, bottom - top], 1).tolist()
            masks = _encoded(found["masks"]) if self.masks else [None] * len(boxes)
            for box, label, score, mask in zip(boxes, found["labels"].tolist(), found["scores"].tolist(), masks, strict=True):
                entry = {"image_id": int(target["image_id"]), "category_id": ids[label], "bbox": [round(value, 2) for value in box], "score": round(score, 5)}
                entries.append(entry if mask is None else {**entry, "segmentation": mask})
        return entries

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        return [
            Row("image", [Cell(drawn(image, None, bundle)) for image, _ in samples]),
            Row("truth", [Cell(drawn(image, target, bundle), target.get("caption", "")) for image, target in samples]),
        ]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        predicted, errors = Row("prediction"), Row("missed and wrong")
        for (image, target), found in zip(samples, outputs, strict=True):
            found = self._shown(found)
            predicted.cells.append(Cell(drawn(image, found, bundle)))
            missed, wrong = matched(found, target)
            of = len(missed) - int(target["iscrowd"].sum() if "iscrowd" in target else 0)
            lost = int(missed.sum())
            caption = f"{of - lost} of {of} found" + (f", {int(wrong.sum())} wrong" if wrong.any() else "")
            shown = {"boxes": torch.cat([target["boxes"][missed], found["boxes"][wrong]])}
            shown["labels"] = torch.cat([target["labels"][missed], found["labels"][wrong]])
            shown["right"] = torch.tensor([False] * lost + [True] * int(wrong.sum()))
            errors.cells.append(Cell(drawn(image, shown, bundle, errors=True), caption, wrong=bool(missed.any() or wrong.any())))
        return [predicted, errors]

    def draw_prediction(self, inputs: Any, outputs: Any, bundle: DataBundle) -> list[Row]:
        found = self._shown(outputs[0])
        names = [f"{bundle.classes[label]} {score:.0%}" for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)]
        caption = ", ".join(names) or f"nothing with a score of {self.shown_score} or more"
        return [Row("image", [Cell(drawn(inputs, None, bundle))]), Row("prediction", [Cell(drawn(inputs, found, bundle), caption)])]

    def _shown(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[found["scores"] >= self.shown_score].cpu() for name, value in found.items() if self.masks or name != "masks"}


class _Everywhere(nn.Module):
    """The part of a detector that can be counted without an image: what does not depend on what is found."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model.maps(images)  # type: ignore[operator]


def _encoded(masks: Tensor) -> list[dict[str, Any]]:
    try:
        from faster_coco_eval.core import mask as coco
    except ImportError as error:
        raise missing_extra("faster-coco-eval", "det", "writing masks in COCO's format") from error
    encoded = (coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in masks.cpu())
    return [{"size": [int(side) for side in entry["size"]], "counts": entry["counts"].decode("ascii")} for entry in encoded]
