"""Point clouds: a label for a cloud, or a label for each of its points.

Shapes     B batch, N points, C channels, K classes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from ..._errors import InputError
from ...analysis import cost
from ...analysis.clouds import cloud_picture
from ...attention import Cost
from ..data import DataBundle, PointBundle
from ._point_report import WRONG_COLOR, draw_attention, draw_confusion, draw_parts, draw_shapes, first_of_each, part_colors
from ._point_viewer import write_cloud_page
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task
from ._voting import Voting
from .classification import Classification

__all__ = ["PartScores", "PartSegmentation", "PointClassification"]


def _points(bundle: DataBundle) -> PointBundle:
    assert isinstance(bundle, PointBundle), "sets of clouds have a bundle of points"
    return bundle


@register_task
@dataclass(frozen=True, kw_only=True)
class PointClassification(Voting, Classification):
    """Classification of clouds ``(B, N, C)``. Judged by the accuracy over clouds; ``class_accuracy`` is the mean over classes."""

    targets: ClassVar[str] = "shapes"
    sample_name: ClassVar[str] = "cloud"
    next_commands: ClassVar[tuple[str, ...]] = ()
    eval_batch_size: ClassVar[int] = 32
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_votes()
        if self.mixup or self.cutmix:
            raise InputError(f"mixup and cutmix are of images, and clouds have no place in common; leave them at 0, got {self.mixup} and {self.cutmix}")

    @property
    def primary_metric(self) -> PrimaryMetric:  # type: ignore[override]
        return PrimaryMetric("accuracy", self.voted("accuracy"))

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {"in_channels": bundle.in_chans, "num_classes": len(bundle.classes), "num_points": _points(bundle).num_points}

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        return self.vote(model, inputs)

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """Those of images, and ``confusion``: how many clouds of each class (rows) were taken for each (columns)."""
        self.check_up(_points(bundle))
        found = super().metrics(bundle)
        found.add_metrics({"confusion": MulticlassConfusionMatrix(len(bundle.classes))})
        return found

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        values = metrics.compute()
        confusion = values.pop("confusion")
        counts = confusion.sum(1).tolist()
        right = confusion.diagonal().tolist()
        per_class = {name: {"accuracy": own / count if count else None} for name, own, count in zip(bundle.classes, right, counts, strict=True)}
        return {**{name: value.item() for name, value in values.items()}, "per_class": per_class, "confusion": confusion.tolist()}

    def chance(self, bundle: DataBundle) -> float | None:
        return _points(bundle).chance

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one cloud of the size of training."""
        return cost(model, (_points(bundle).num_points, bundle.in_chans))

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        up = _points(bundle).up_axis
        return [Row("cloud, from two sides", [Cell(cloud_picture(points, up=up), bundle.classes[int(label)]) for points, label in samples])]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        row = Row("prediction")
        for (points, label), logits in zip(samples, outputs, strict=True):
            best = int(logits.argmax())
            row.cells.append(Cell(cloud_picture(points, up=_points(bundle).up_axis), bundle.classes[best], wrong=best != int(label)))
        return [row]

    @torch.no_grad()
    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``clouds.png``, ``attention.png``, ``attention.html``, ``slots.png`` and ``confusion.png``, as far as there is something to see."""
        own, device = _points(bundle), next(model.parameters()).device
        files = [draw_shapes(lambda points: self.predict(model, points.to(device)), own, folder)]
        labels = [int(own.test[place][1]) for place in range(min(64, len(own.test)))]
        files += draw_attention(model, [(own.test[place][0], ()) for place in first_of_each(labels, 3)], own, folder)
        points, label = own.test[0]
        logits = self.predict(model, points[None].to(device))[0]
        files += write_cloud_page(model, points, (), own, folder, logits=logits, truth=int(label))
        return [*files, draw_confusion(metrics["confusion"], own.classes, folder, what="clouds")]


@register_task
@dataclass(frozen=True, kw_only=True)
class PartSegmentation(Voting, Task):
    """Cross-entropy over points. Inputs are ``(points, shape)``, the cloud and its class; targets a label for each point, ``(N,)``.

    Scores of a cloud of class c look at c's own parts, and a part that is neither there nor predicted counts 1. ``instance_miou`` is the mean over clouds,
    ``class_miou`` the mean over classes of the mean over their clouds; both stand in every result.
    """

    targets: ClassVar[str] = "parts"
    sample_name: ClassVar[str] = "cloud"
    train_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    eval_batch_size: ClassVar[int] = 16
    report_needs: ClassVar[tuple[str, ...]] = ("matplotlib",)
    usual_scale: ClassVar[tuple[float, float]] = (0.7, 1.4)

    label_smoothing: float = 0.0
    """Share of the truth that is spread over all parts."""
    restrict: bool = True
    """Choose among the parts of the cloud's class (PointNet++'s habit), or among all parts (DGCNN's). The two give other numbers."""
    judged_by: Literal["instance_miou", "class_miou", "accuracy"] = "instance_miou"
    """The number that runs are judged by: the mean over clouds, over classes of clouds, or the share of points."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_votes()
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"expected 0 ≤ label_smoothing < 1, got {self.label_smoothing}")

    @property
    def primary_metric(self) -> PrimaryMetric:  # type: ignore[override]
        among = "the class's parts" if self.restrict else "all parts"
        label = {"instance_miou": f"instance mIoU among {among}", "class_miou": f"class mIoU among {among}", "accuracy": "accuracy of points"}
        return PrimaryMetric(self.judged_by, self.voted(label[self.judged_by]))

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {"in_channels": bundle.in_chans, "num_classes": len(bundle.classes), "num_shapes": _points(bundle).num_shapes}

    def shards(self) -> bool:
        return True

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        logits = forward(*inputs)
        right = (logits.detach().argmax(-1) == targets).float().mean(-1).sum()
        return self.loss(model, logits, targets), {"accuracy": right}

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs.float().flatten(0, 1), targets.flatten(), label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Logits of the points, and the class of each cloud."""
        points, shapes = inputs
        return self.vote(lambda some: model(some, shapes), points), shapes

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        self.check_up(_points(bundle))
        return MetricCollection({"scores": PartScores(self._allowed(bundle), restrict=self.restrict), "loss": MeanMetric()}, compute_groups=False)

    @staticmethod
    def _allowed(bundle: DataBundle) -> Tensor:
        """Which parts a class of clouds has, ``(shapes, parts)``."""
        points = _points(bundle)
        allowed = torch.zeros(max(points.num_shapes, 1), len(bundle.classes), dtype=torch.bool)
        for shape, parts in enumerate(points.parts_of_shape or [range(len(bundle.classes))] * len(allowed)):
            allowed[shape, list(parts)] = True
        return allowed

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        logits, shape = outputs
        metrics["scores"].update(logits, shape, targets)
        losses = F.cross_entropy(logits.float().mT, targets, label_smoothing=self.label_smoothing, reduction="none").mean(-1)
        metrics["loss"].update(losses)

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        """The numbers; ``per_class``, where classes of clouds have names, the mean IoU of the clouds of each; ``confusion`` of points, truth by answer."""
        values = metrics.compute()
        by_shape, confusion = values.pop("by_shape").tolist(), values.pop("confusion")
        found: Metrics = {name: value.item() for name, value in values.items()}
        names = _points(bundle).shapes
        if len(names):
            found["per_class"] = {name: {"miou": None if value != value else value} for name, value in zip(names, by_shape, strict=True)}
        return {**found, "confusion": confusion.tolist()}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one cloud of the size of training."""
        return cost(model, (_points(bundle).num_points, bundle.in_chans), torch.zeros(1, dtype=torch.long, device="meta"))

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        colors, up = part_colors(len(bundle.classes)), _points(bundle).up_axis
        cells = [Cell(cloud_picture(points, colors[parts.cpu().numpy()], up=up)) for (points, _), parts in samples]
        return [Row("truth, from two sides", cells)]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        predicted, errors = Row("prediction"), Row("errors")
        logits, shapes = outputs
        allowed, hues, up = self._allowed(bundle), part_colors(len(bundle.classes)), _points(bundle).up_axis
        for ((points, _), parts), cloud, shape in zip(samples, logits, shapes, strict=True):
            found = _choose(cloud[None], shape[None], allowed if self.restrict else None)[0]
            right = (found == parts).float().mean().item()
            predicted.cells.append(Cell(cloud_picture(points, hues[found.cpu().numpy()], up=up), f"{right:.0%} of points"))
            colors = np.full((len(parts), 3), 190, np.uint8)
            colors[(found != parts).cpu().numpy()] = WRONG_COLOR
            errors.cells.append(Cell(cloud_picture(points, colors, up=up)))
        return [predicted, errors]

    @torch.no_grad()
    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """``clouds.png``, ``attention.png``, ``attention.html``, ``slots.png`` and ``confusion.png``, as far as there is something to see."""
        own, device = _points(bundle), next(model.parameters()).device
        allowed = self._allowed(bundle) if self.restrict else None

        def choose(points: Tensor, shapes: Tensor) -> Tensor:
            logits, _ = self.predict(model, (points.to(device), shapes.to(device)))
            return _choose(logits, shapes.to(device), None if allowed is None else allowed.to(device))

        files = [draw_parts(choose, own, folder)]
        shapes = [int(own.test[place][0][1]) for place in range(min(64, len(own.test)))]
        inputs = [(own.test[place][0][0], (torch.tensor([shapes[place]]),)) for place in first_of_each(shapes, 3)]
        files += draw_attention(model, inputs, own, folder)
        points, rest = inputs[0]
        files += write_cloud_page(model, points, rest, own, folder, logits=torch.empty(0), truth=None)
        return [*files, draw_confusion(metrics["confusion"], own.classes, folder, what="points")]


class PartScores(Metric):
    """``instance_miou``, ``class_miou`` and ``accuracy`` of points, from sums over clouds; ``by_shape``, the mean IoU of the clouds of each class, NaN where
    there is none; ``confusion``, points by true and found part.

    Args:
        allowed: which parts a class of clouds has, ``(shapes, parts)`` bool.
        restrict: whether predictions are chosen among those.
    """

    allowed: Tensor
    iou: Tensor
    clouds: Tensor
    right: Tensor
    confusion: Tensor

    def __init__(self, allowed: Tensor, *, restrict: bool) -> None:
        super().__init__()
        self.restrict = restrict
        self.register_buffer("allowed", allowed, persistent=False)
        for name in ("iou", "clouds"):
            self.add_state(name, torch.zeros(len(allowed), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("confusion", torch.zeros(allowed.shape[1], allowed.shape[1], dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, shape: Tensor, parts: Tensor) -> None:
        """Count clouds: logits ``(B, N, K)``, classes ``(B,)``, true parts ``(B, N)``."""
        allowed = self.allowed[shape]
        found = _choose(logits, shape, self.allowed if self.restrict else None)
        there, called = (F.one_hot(labels, allowed.shape[-1]).bool() for labels in (parts, found))
        both, either = (there & called).sum(1), (there | called).sum(1)
        iou = torch.where(either == 0, 1.0, both / either.clamp_min(1)).double()
        mean = (iou * allowed).sum(-1) / allowed.sum(-1)
        self.iou.index_add_(0, shape, mean)
        self.clouds.index_add_(0, shape, torch.ones_like(mean))
        self.right += (found == parts).double().mean(-1).sum()
        pairs = parts.flatten() * len(self.confusion) + found.flatten()
        # one sum for each pair, where bincount would wait for the device
        self.confusion += torch.zeros_like(self.confusion).flatten().index_add_(0, pairs, torch.ones_like(pairs)).view_as(self.confusion)

    def compute(self) -> dict[str, Tensor]:
        seen = self.clouds > 0
        by_class = torch.where(seen, self.iou / self.clouds.clamp_min(1), 0.0)
        total = self.clouds.sum().clamp_min(1)
        return {
            "instance_miou": self.iou.sum() / total,
            "class_miou": by_class.sum() / seen.sum().clamp_min(1),
            "accuracy": self.right / total,
            "by_shape": torch.where(seen, by_class, float("nan")),
            "confusion": self.confusion,
        }


def _choose(logits: Tensor, shape: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is not None:
        logits = logits.masked_fill(~allowed.to(logits.device)[shape].unsqueeze(1), float("-inf"))
    return logits.argmax(-1)
