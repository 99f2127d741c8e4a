"""Point clouds: a label for a cloud, or a label for each of its points.

Shapes     B batch, N points, C channels, K classes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from ..._errors import InputError
from ...analysis import cost
from ...analysis.clouds import cloud_picture
from ...attention import Cost
from ..data import DataBundle, PointBundle
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task
from .classification import Classification

__all__ = ["PartScores", "PartSegmentation", "PointClassification"]


def _points(bundle: DataBundle) -> PointBundle:
    assert isinstance(bundle, PointBundle), "sets of clouds have a bundle of points"
    return bundle


@register_task
@dataclass(frozen=True, kw_only=True)
class PointClassification(Classification):
    """Classification of clouds ``(B, N, C)``. Judged by the accuracy over clouds; ``class_accuracy`` is the mean over classes."""

    targets: ClassVar[str] = "shapes"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("accuracy", "accuracy")
    eval_batch_size: ClassVar[int] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixup or self.cutmix:
            raise InputError(f"mixup and cutmix are of images, and clouds have no place in common; leave them at 0, got {self.mixup} and {self.cutmix}")

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {"in_channels": bundle.in_chans, "num_classes": len(bundle.classes)}

    def chance(self, bundle: DataBundle) -> float | None:
        return _points(bundle).chance

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one cloud of the size of training."""
        return cost(model, (_points(bundle).num_points, bundle.in_chans))

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        return [Row("cloud, from two sides", [Cell(cloud_picture(points), bundle.classes[int(label)]) for points, label in samples])]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        row = Row("prediction")
        for (points, label), logits in zip(samples, outputs, strict=True):
            best = int(logits.argmax())
            row.cells.append(Cell(cloud_picture(points), bundle.classes[best], wrong=best != int(label)))
        return [row]


@register_task
@dataclass(frozen=True, kw_only=True)
class PartSegmentation(Task):
    """Cross-entropy over points. Inputs are ``(points, shape)``, the cloud and its class; targets a label for each point, ``(N,)``.

    Scores of a cloud of class c look at c's own parts, and a part that is neither there nor predicted counts 1. ``instance_miou`` is the mean over clouds,
    ``class_miou`` the mean over classes of the mean over their clouds; both stand in every result.
    """

    targets: ClassVar[str] = "parts"
    train_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    eval_batch_size: ClassVar[int] = 16

    label_smoothing: float = 0.0
    """Share of the truth that is spread over all parts."""
    restrict: bool = True
    """Choose among the parts of the cloud's class (PointNet++'s habit), or among all parts (DGCNN's). The two give other numbers."""
    judged_by: Literal["instance_miou", "class_miou", "accuracy"] = "instance_miou"
    """The number that runs are judged by: the mean over clouds, over classes of clouds, or the share of points."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"expected 0 ≤ label_smoothing < 1, got {self.label_smoothing}")

    @property
    def primary_metric(self) -> PrimaryMetric:  # type: ignore[override]
        among = "the class's parts" if self.restrict else "all parts"
        return PrimaryMetric(
            self.judged_by,
            {"instance_miou": f"instance mIoU among {among}", "class_miou": f"class mIoU among {among}", "accuracy": "accuracy of points"}[self.judged_by],
        )

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {"in_channels": bundle.in_chans, "num_classes": len(bundle.classes), "num_shapes": _points(bundle).num_shapes}

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        logits = forward(*inputs)
        right = (logits.detach().argmax(-1) == targets).float().mean(-1).sum()
        return self.loss(model, logits, targets), {"accuracy": right}

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs.float().flatten(0, 1), targets.flatten(), label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Logits of the points, and the class of each cloud."""
        return model(*inputs), inputs[1]

    def metrics(self, bundle: DataBundle) -> MetricCollection:
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
        values = metrics.compute()
        return {name: value.item() for name, value in values.items()}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one cloud of the size of training."""
        return cost(model, (_points(bundle).num_points, bundle.in_chans), torch.zeros(1, dtype=torch.long, device="meta"))

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        cells = [Cell(cloud_picture(points, _colors(parts, len(bundle.classes)))) for (points, _), parts in samples]
        return [Row("truth, from two sides", cells)]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        predicted, errors = Row("prediction"), Row("errors")
        logits, shapes = outputs
        allowed = self._allowed(bundle)
        for ((points, _), parts), cloud, shape in zip(samples, logits, shapes, strict=True):
            found = _choose(cloud[None], shape[None], allowed if self.restrict else None)[0]
            right = (found == parts).float().mean().item()
            predicted.cells.append(Cell(cloud_picture(points, _colors(found, len(bundle.classes))), f"{right:.0%} of points"))
            colors = np.full((len(parts), 3), 190, np.uint8)
            colors[(found != parts).cpu().numpy()] = (214, 40, 40)
            errors.cells.append(Cell(cloud_picture(points, colors)))
        return [predicted, errors]


class PartScores(Metric):
    """``instance_miou``, ``class_miou`` and ``accuracy`` of points, from sums over clouds.

    Args:
        allowed: which parts a class of clouds has, ``(shapes, parts)`` bool.
        restrict: whether predictions are chosen among those.
    """

    allowed: Tensor
    iou: Tensor
    clouds: Tensor
    right: Tensor

    def __init__(self, allowed: Tensor, *, restrict: bool) -> None:
        super().__init__()
        self.restrict = restrict
        self.register_buffer("allowed", allowed, persistent=False)
        for name in ("iou", "clouds"):
            self.add_state(name, torch.zeros(len(allowed), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

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

    def compute(self) -> dict[str, Tensor]:
        seen = self.clouds > 0
        by_class = torch.where(seen, self.iou / self.clouds.clamp_min(1), 0.0)
        total = self.clouds.sum().clamp_min(1)
        return {"instance_miou": self.iou.sum() / total, "class_miou": by_class.sum() / seen.sum().clamp_min(1), "accuracy": self.right / total}


def _choose(logits: Tensor, shape: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is not None:
        logits = logits.masked_fill(~allowed.to(logits.device)[shape].unsqueeze(1), float("-inf"))
    return logits.argmax(-1)


def _colors(parts: Tensor, number: int) -> NDArray[np.uint8]:
    """Hues as far apart as they go."""
    from matplotlib import colormaps

    palette = colormaps["tab20" if number > 10 else "tab10"]
    return np.array([palette(int(part) % palette.N)[:3] for part in parts.cpu()]) * 255
