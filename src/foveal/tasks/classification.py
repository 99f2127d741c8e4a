"""Image classification: what a batch is, the loss, the metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from .._errors import InputError
from ..analysis import value_overlap
from ..data import DataBundle
from ._task import Headline, Task, register_task

__all__ = ["Classification"]


@register_task
@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Cross-entropy with the usual regularisers."""

    targets: ClassVar[str] = "labels"
    headline: ClassVar[Headline] = Headline("accuracy", "accuracy")
    running: ClassVar[tuple[str, ...]] = ("accuracy",)

    label_smoothing: float = 0.0
    mixup: float = 0.0
    """Alpha of mixup; 0 is none."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0 is none. With both, each batch draws one of them."""
    overlap_weight: float = 0.0
    """Weight of :func:`foveal.analysis.value_overlap`, our extension for denoising attention."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1 or min(self.mixup, self.cutmix, self.overlap_weight) < 0:
            raise InputError(f"expected 0 ≤ label_smoothing < 1, and mixup, cutmix and overlap_weight of at least 0, got {self}")

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix, drawn from torch's random numbers; labels become ``(B, num_classes)`` then."""
        if not (self.mixup or self.cutmix):
            return images, labels
        from torchvision.transforms import v2

        both = [(v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)]
        choices = [transform(alpha=alpha, num_classes=num_classes) for transform, alpha in both if alpha]
        images, labels = choices[int(torch.randint(len(choices), ()))](images, labels)
        return images, labels

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        """The training loss of logits ``(B, K)`` against labels ``(B,)`` or ``(B, K)``."""
        loss = F.cross_entropy(outputs.float(), targets, label_smoothing=self.label_smoothing)
        return loss + self.overlap_weight * value_overlap(model) if self.overlap_weight else loss

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        mixed, wanted = self.mix(inputs, targets, len(bundle.classes))
        logits = forward(mixed)
        return self.loss(model, logits, wanted), {"accuracy": (logits.detach().argmax(-1) == targets).sum()}

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``accuracy`` over images, ``class_accuracy`` averaged over classes, ``loss`` without regularisers; shared among processes when computed."""
        num_classes = len(bundle.classes)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "class_accuracy": MulticlassAccuracy(num_classes, average="macro"),
                "loss": MeanMetric(),
            }
        )

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        logits = outputs.float()
        metrics["accuracy"].update(logits, targets)
        metrics["class_accuracy"].update(logits, targets)
        metrics["loss"].update(F.cross_entropy(logits, targets, reduction="none"))

    def chance(self, bundle: DataBundle) -> float | None:
        return 1 / len(bundle.classes)
