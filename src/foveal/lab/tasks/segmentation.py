"""Semantic segmentation: a class for every pixel, some of which nobody knows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from ..._errors import InputError
from ..._ranges import Range
from ...analysis.pictures import to_pixels
from ..data import IGNORE, DataBundle, SegmentationBundle
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task

__all__ = ["Segmentation", "segmentation_scores"]


@register_task
@dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """Cross-entropy averaged over the pixels whose class is known; evaluated whole or by windows, at one scale or several.

    Targets are ``(H, W)`` whole numbers, 255 where nobody knows. Images of unlike sizes make a batch that is a list.

    Raises:
        ValueError: a window without a step that covers the image, a scale of 0 or below.
    """

    targets: ClassVar[str] = "masks"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("miou", "mean IoU")
    train_metrics: ClassVar[tuple[str, ...]] = ("pixel_accuracy",)
    eval_batch_size: ClassVar[int] = 8
    next_commands: ClassVar[tuple[str, ...]] = ("inspect {run} IMAGE",)

    ranges: ClassVar[Mapping[str, Range]] = {"window_step": Range(at_least=1)}

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    window: int | None = None
    """Side of the square windows that cover the image in evaluation, logits averaged where they overlap. The whole image at once if None."""
    window_step: int | None = None
    """From window to window; two thirds of its side if None."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the image in evaluation, relative to its own, whose logits are averaged."""
    flip: bool = False
    """Average with the mirrored image in evaluation."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1 or not self.scales or min(self.scales) <= 0:
            raise InputError(f"expected 0 ≤ label_smoothing < 1 and scales above 0, got {self.label_smoothing} and {self.scales}")
        if self.window is not None and not 0 < self._step() <= self.window:
            raise InputError(f"windows of {self.window} with a step of {self._step()} leave pixels out; choose a step of 1 to {self.window}")

    # -- training -------------------------------------------------------------------------------------------------------------------------------

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """A batch of tensors where sizes are alike, else of lists."""
        if len({image.shape for image, _ in samples}) == len({mask.shape for _, mask in samples}) == 1:
            images, masks = default_collate(list(samples))
            return images, masks
        return [image for image, _ in samples], [mask for _, mask in samples]

    def shards(self) -> bool:
        return True

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        if isinstance(inputs, list):
            raise InputError("training needs images of one size; give the data a crop")
        logits = forward(inputs)
        known = targets != IGNORE
        right = ((logits.detach().argmax(1) == targets) & known).sum()
        return self.loss(model, logits, targets), {"pixel_accuracy": len(targets) * right / known.sum().clamp_min(1)}

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        """Of logits ``(B, K, H, W)`` against ``(B, H, W)``: the mean over known pixels, 0 where there is none."""
        total = F.cross_entropy(outputs.float(), targets, ignore_index=IGNORE, label_smoothing=self.label_smoothing, reduction="sum")
        return total / (targets != IGNORE).sum().clamp_min(1)

    # -- evaluation -----------------------------------------------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Logits of the size of the images, ``(B, K, H, W)`` or a list of ``(K, H, W)``."""
        if isinstance(inputs, list):
            return [self.predict(model, image[None])[0] for image in inputs]
        size = inputs.shape[-2:]
        views = []
        for scale in self.scales:
            scaled = inputs if scale == 1 else _resize(inputs, [max(1, round(side * scale)) for side in size])
            views.append(_resize(self._windows(model, scaled), size))
            if self.flip:
                views.append(_resize(self._windows(model, scaled.flip(-1)).flip(-1), size))
        return torch.stack(views).mean(0) if len(views) > 1 else views[0]

    def _step(self) -> int:
        return self.window_step or max(1, 2 * (self.window or 0) // 3)

    def _windows(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits of the whole, or the mean of those of windows; the last window of a row or column lies at the border."""
        if self.window is None or max(images.shape[-2:]) <= self.window:
            return model(images).float()
        total = count = images.new_zeros(())
        for top in _starts(images.shape[-2], self.window, self._step()):
            for left in _starts(images.shape[-1], self.window, self._step()):
                place = (..., slice(top, top + self.window), slice(left, left + self.window))
                logits = model(images[place]).float()
                if not total.ndim:
                    total = logits.new_zeros(*logits.shape[:2], *images.shape[-2:])
                    count = logits.new_zeros(images.shape[-2:])
                total[place] += logits
                count[place] += 1
        return total / count

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """The confusion of classes over known pixels, and the loss over images."""
        return MetricCollection({"confusion": MulticlassConfusionMatrix(len(bundle.classes), ignore_index=IGNORE), "loss": MeanMetric()})

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        for logits, mask in zip(outputs, targets, strict=True):
            logits = _resize(logits[None], mask.shape)
            # torchmetrics refuses a prediction of classes that are out of range, not one of logits
            metrics["confusion"].update(logits.argmax(1), mask[None])
            metrics["loss"].update(self.loss(nn.Identity(), logits, mask[None]))

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        """``miou``, ``mean_f1``, ``accuracy`` over pixels, ``loss``, and ``iou`` and ``f1`` of every class; see :func:`segmentation_scores`."""
        values = metrics.compute()
        unscored = bundle.unscored if isinstance(bundle, SegmentationBundle) else ()
        return {**segmentation_scores(values["confusion"].cpu().numpy(), bundle.classes, unscored), "loss": values["loss"].item()}

    def chance(self, bundle: DataBundle) -> float | None:
        return bundle.chance if isinstance(bundle, SegmentationBundle) else None

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        images = Row("image", [Cell(to_pixels(image)) for image, _ in samples])
        return [images, Row("truth", [Cell(_colors(mask, bundle)) for _, mask in samples])]

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        predicted, errors = Row("prediction"), Row("errors")
        for (image, mask), logits in zip(samples, outputs, strict=True):
            classes = _resize(logits[None], mask.shape)[0].argmax(0)
            known = mask != IGNORE
            wrong = (classes != mask) & known
            right = 1 - wrong.sum().item() / max(known.sum().item(), 1)
            predicted.cells.append(Cell(_colors(classes, bundle), f"{right:.0%} of pixels"))
            gray = np.repeat(to_pixels(image).mean(-1, keepdims=True) * 0.6, 3, axis=-1)
            gray[wrong.numpy()] = (235, 50, 40)
            gray[~known.numpy()] = (90, 110, 200)
            errors.cells.append(Cell(gray.astype(np.uint8)))
        return [predicted, errors]

    def draw_prediction(self, inputs: Any, outputs: Any, bundle: DataBundle) -> list[Row]:
        classes = outputs[0].argmax(0)
        found = [name for number, name in enumerate(bundle.classes) if (classes == number).any()]
        sure = outputs[0].softmax(0).amax(0)
        shade = (255 * sure.clamp(0, 1)).byte().numpy()[..., None]
        return [
            Row("image", [Cell(to_pixels(inputs))]),
            Row("prediction", [Cell(_colors(classes, bundle), ", ".join(found))]),
            Row("probability of the class predicted", [Cell(shade, f"{sure.mean():.0%} on average")]),
        ]


def segmentation_scores(confusion: NDArray[Any], classes: Sequence[str], unscored: Sequence[str] = ()) -> Metrics:
    """Scores from counts of pixels.

    Args:
        confusion: pixels of true class i that were called j, ``(K, K)``.
        classes: their names.
        unscored: names of classes that the means leave out; their pixels still count against others.

    Returns:
        ``miou`` and ``mean_f1`` over scored classes that occur in truth or prediction, ``accuracy`` over all pixels, and ``per_class``: ``iou`` and ``f1``,
        None for a class that does not occur.
    """
    counts = confusion.astype(np.float64)
    hit, true, called = counts.diagonal(), counts.sum(1), counts.sum(0)
    per_class: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(classes):
        there = true[number] + called[number]
        per_class[name] = {
            "iou": float(hit[number] / (there - hit[number])) if there else None,
            "f1": float(2 * hit[number] / there) if there else None,
        }
    scored = [numbers for name, numbers in per_class.items() if name not in unscored]

    def mean(key: str) -> float:
        known = [value for numbers in scored if (value := numbers[key]) is not None]
        return sum(known) / len(known) if known else 0.0

    return {"miou": mean("iou"), "mean_f1": mean("f1"), "accuracy": float(hit.sum() / max(counts.sum(), 1)), "per_class": per_class}


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _starts(length: int, window: int, step: int) -> Iterator[int]:
    last = max(length - window, 0)
    yield from range(0, last, step)
    yield last


def _colors(classes: Tensor, bundle: DataBundle) -> NDArray[np.uint8]:
    palette = np.full((256, 3), 255, np.uint8)
    chosen = bundle.palette if isinstance(bundle, SegmentationBundle) else ()
    for number in range(len(bundle.classes)):
        palette[number] = chosen[number] if number < len(chosen) else voc_color(number)
    return palette[classes.cpu().numpy()]


def voc_color(number: int) -> tuple[int, int, int]:
    """The color of PASCAL VOC's palette: the bits of the number, spread over red, green and blue from the highest bit down."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return color[0], color[1], color[2]
