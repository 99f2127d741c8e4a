"""Image classification: what a batch is, the loss, the metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ..._errors import InputError
from ...analysis import value_overlap
from ..data import DataBundle
from ._task import PrimaryMetric, Task, register_task

__all__ = ["Classification"]

PRESENT = 0.2
"""Share of a mixture above which binary cross-entropy takes a class to be there."""


@register_task
@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Cross-entropy with the usual regularizers."""

    targets: ClassVar[str] = "labels"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("accuracy", "accuracy")
    train_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    next_commands: ClassVar[tuple[str, ...]] = ("inspect {run} IMAGE", "export {run} --to onnx")

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    mixup: float = 0.0
    """Alpha of mixup; 0 is none."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0 is none. With both, each batch draws one of them."""
    bce: bool = False
    """Binary cross-entropy, averaged over classes, in which every class with more than a fifth of a mixture is present (Wightman et al. 2021, arXiv 2110.00476;
    the threshold is timm's setting for it)."""
    overlap_weight: float = 0.0
    """Weight of :func:`foveal.analysis.value_overlap`, our extension for denoising attention."""

    def __post_init__(self) -> None:
        if self.bce and self.label_smoothing:
            raise InputError(f"label_smoothing is of cross-entropy; with bce leave it at 0, got {self.label_smoothing}")
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
        logits = outputs.float()
        if self.bce:
            shares = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[-1])
            loss = F.binary_cross_entropy_with_logits(logits, (shares > PRESENT).to(logits.dtype))
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return loss + self.overlap_weight * value_overlap(model) if self.overlap_weight else loss

    def shards(self) -> bool:
        return not self.overlap_weight

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        mixed, wanted = self.mix(inputs, targets, len(bundle.classes))
        logits = forward(mixed)
        return self.loss(model, logits, wanted), {"accuracy": (logits.detach().argmax(-1) == targets).sum()}

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """``accuracy`` over images, ``class_accuracy`` averaged over classes, ``loss``, a cross-entropy without regularizers; shared among processes.

        Where there are more than 20 classes also ``top5_accuracy``: the truth is among the five likeliest.
        """
        num_classes = len(bundle.classes)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "class_accuracy": MulticlassAccuracy(num_classes, average="macro"),
                "loss": MeanMetric(),
                **({"top5_accuracy": MulticlassAccuracy(num_classes, average="micro", top_k=5)} if num_classes > 20 else {}),
            }
        )

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        logits = outputs.float()
        for name, metric in metrics.items():
            if name != "loss":
                metric.update(logits, targets)
        metrics["loss"].update(F.cross_entropy(logits, targets, reduction="none"))

    def per_sample(self, outputs: Any, targets: Any) -> Tensor | None:
        """1 where the likeliest class is the truth, if the accuracy over samples is what is judged."""
        return (outputs.argmax(-1) == targets).float() if self.primary_metric.name == "accuracy" else None

    def chance(self, bundle: DataBundle) -> float | None:
        return 1 / len(bundle.classes)
