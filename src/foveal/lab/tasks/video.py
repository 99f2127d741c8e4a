"""Video classification: a label for a clip, and one prediction out of several views of a video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ...analysis import cost
from ...analysis.pictures import to_pixels
from ...attention import Cost
from ..data import DataBundle, VideoBundle
from ._task import Cell, PrimaryMetric, Row, register_task
from .classification import Classification

__all__ = ["VideoClassification"]


@register_task
@dataclass(frozen=True, kw_only=True)
class VideoClassification(Classification):
    """Classification of clips ``(B, C, T, H, W)``, or of several views of each video, ``(B, V, C, T, H, W)``, whose probabilities are averaged.

    Mixup and cutmix treat all frames of a clip alike.
    """

    targets: ClassVar[str] = "actions"
    sample_name: ClassVar[str] = "clip"
    next_commands: ClassVar[tuple[str, ...]] = ("inspect {run} VIDEO", "export {run} --to onnx")
    # a clip is as large as many images
    eval_batch_size: ClassVar[int] = 16

    judged_by: Literal["accuracy", "class_accuracy"] = "accuracy"
    """``accuracy`` over videos, or ``class_accuracy``, the mean over classes, where classes are of very unequal size."""

    @property
    def primary_metric(self) -> PrimaryMetric:  # type: ignore[override]
        return PrimaryMetric(self.judged_by, {"accuracy": "accuracy", "class_accuracy": "mean accuracy of classes"}[self.judged_by])

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {**super().model_kwargs(bundle), "num_frames": _video(bundle).num_frames}

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """Beside those of images ``NAME_accuracy`` for each aspect of the classes that the set names."""
        metrics = super().metrics(bundle)
        metrics.add_metrics({f"{name}_accuracy": _AspectAccuracy(numbers) for name, numbers in _video(bundle).aspects.items()})
        return metrics

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        if not (self.mixup or self.cutmix):
            return images, labels
        from torchvision import tv_tensors

        # torchvision takes five axes for a batch of videos only when told so
        mixed, labels = super().mix(tv_tensors.Video(images), labels, num_classes)
        return mixed.as_subclass(Tensor), labels

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Logits of clips; of several views the logarithm of their mean probability, whose softmax is that mean."""
        if inputs.ndim == 5:
            return model(inputs)
        logits: Tensor = model(inputs.flatten(0, 1)).float().unflatten(0, inputs.shape[:2])
        return logits.log_softmax(-1).logsumexp(1) - math.log(inputs.shape[1])

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Of one view of one video."""
        return cost(model, (bundle.in_chans, _video(bundle).num_frames, bundle.img_size, bundle.img_size))

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """A row for each video, with its frames in their order."""
        return [Row(bundle.classes[int(label)], [Cell(frame) for frame in _frames(clip)]) for clip, label in samples]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        """One row, with the frame in the middle of each video."""
        row = Row("prediction")
        for (clip, label), logits in zip(samples, outputs, strict=True):
            best, frames = int(logits.argmax()), _frames(clip)
            row.cells.append(Cell(frames[len(frames) // 2], bundle.classes[best], wrong=best != int(label)))
        return [row]


class _AspectAccuracy(MeanMetric):
    """Share of clips whose likeliest class is like the true one in an aspect: a number for each class."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.numbers: Tensor
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        super().update((self.numbers[logits.argmax(-1)] == self.numbers[labels]).float())


def _video(bundle: DataBundle) -> VideoBundle:
    assert isinstance(bundle, VideoBundle), "sets whose targets are actions have a bundle of videos"
    return bundle


def _frames(clip: Tensor) -> list[Any]:
    """Pictures of the frames, of the view in the middle where there are several; stretched by one rule for all frames."""
    clip = clip if clip.ndim == 4 else clip[len(clip) // 2]
    high = to_pixels(rearrange(clip, "c t h w -> c (t h) w"))
    return list(high.reshape(clip.shape[1], -1, *high.shape[1:]))
