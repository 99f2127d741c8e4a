"""Stereo matching: how far each pixel of the left image has moved in the right one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchmetrics import Metric, MetricCollection

from ..._errors import InputError
from ..._renamed import moved_member
from ...analysis import cost
from ...analysis.pictures import to_pixels
from ...attention import Cost
from ..data import DataBundle, StereoBundle
from ._task import Cell, Metrics, PrimaryMetric, Row, Task, register_task

__all__ = ["StereoErrors", "StereoMatching", "color_disparity"]

Targets = list[tuple[Tensor, int]]
"""Disparity ``(H, W)``, NaN where nobody knows, and the number of the scene, −1 for none."""

UNKNOWN = (90, 110, 200)
"""Color of pixels of unknown disparity."""
WORST = 5.0
"""End-point error, in pixels, that is drawn in the brightest color."""
_SCALE = np.array([(20, 12, 60), (90, 25, 130), (185, 50, 110), (240, 110, 60), (250, 190, 60), (250, 250, 190)], np.float64)


@register_task
@dataclass(frozen=True, kw_only=True)
class StereoMatching(Task):
    """Smooth-L1 over the pixels whose disparity is known and below the largest that the network can answer, each head weighted (Chang and Chen 2018, eq. 5).

    Inputs are both images as one tensor ``(6, H, W)``, left before right. Outputs are ``(B, K, H, W)`` with the final disparity last; heads count in training
    alone. Pairs of unlike sizes make a batch that is a list.

    Raises:
        ValueError: no weight, or one below 0.
    """

    targets: ClassVar[str] = "disparity"
    sample_name: ClassVar[str] = "pair"
    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("epe", "end-point error", larger_is_better=False, scale=1.0, unit="px", step="px", decimals=2)
    train_metrics: ClassVar[tuple[str, ...]] = ("within_3px", "epe")
    eval_batch_size: ClassVar[int] = 1
    next_commands: ClassVar[tuple[str, ...]] = ("inspect {run} LEFT --right RIGHT",)

    head_weights: tuple[float, ...] = (0.5, 0.7, 1.0)
    """Of the heads from first to last; of fewer heads, the last ones."""

    def __post_init__(self) -> None:
        if not self.head_weights or min(self.head_weights) < 0:
            raise InputError(f"expected weights of at least 0, at least one, got {self.head_weights}")

    # -- training -------------------------------------------------------------------------------------------------------------------------------

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Inputs as one tensor where sizes are alike, else as a list; targets are a list."""
        images, targets = [image for image, _ in samples], [target for _, target in samples]
        return (default_collate(images) if len({image.shape for image in images}) == 1 else images), targets

    def shards(self) -> bool:
        return True

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        if isinstance(inputs, list):
            raise InputError("training needs pairs of one size; give the data a crop")
        outputs = forward(inputs)
        truth = torch.stack([disparity for disparity, _ in targets])
        known = truth.isfinite()
        errors = (outputs.detach()[:, -1].float() - truth).abs()
        share = len(targets) / known.sum().clamp_min(1)
        # a comparison with NaN is False
        running = {"within_3px": share * (errors <= 3).sum(), "epe": share * errors.masked_fill(~known, 0.0).sum()}
        return self.loss(model, outputs, targets), running

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        """Of ``(B, K, H, W)``: the mean over pixels that are known and below ``model.max_disparity`` if it has one, 0 where there is none."""
        truth = torch.stack([disparity for disparity, _ in targets])
        heads = outputs.shape[1]
        if heads > len(self.head_weights):
            raise InputError(f"the network has {heads} heads, and there are {len(self.head_weights)} head_weights")
        counts = truth < getattr(model, "max_disparity", float("inf"))
        # a NaN would come back in the gradient, however it is masked behind the loss
        wanted = truth.masked_fill(~counts, 0.0)
        each = [F.smooth_l1_loss(outputs[:, head].float(), wanted, reduction="none").masked_fill(~counts, 0.0).sum() for head in range(heads)]
        weights = self.head_weights[-heads:]
        return torch.stack([weight * value for weight, value in zip(weights, each, strict=True)]).sum() / counts.sum().clamp_min(1)

    # -- evaluation -----------------------------------------------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Disparities ``(B, 1, H, W)``, or a list of ``(1, H, W)``."""
        if isinstance(inputs, list):
            return [self.predict(model, image[None])[0] for image in inputs]
        return model(inputs)[:, -1:].float()

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        return MetricCollection({"errors": StereoErrors(len(_scenes(bundle)))})

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        for disparity, (truth, scene) in zip(outputs, targets, strict=True):
            metrics["errors"].update(disparity[-1], truth, scene)

    def per_sample(self, outputs: Any, targets: Any) -> Tensor | None:
        """The mean error of each pair; none where scenes have names, or a pair has no known pixel, for the number is another mean then."""
        if any(scene >= 0 or not truth.isfinite().any() for truth, scene in targets):
            return None
        pairs = zip(outputs, targets, strict=True)
        return torch.stack([(disparity[-1] - truth)[truth.isfinite()].abs().mean() for disparity, (truth, _) in pairs])

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        """``epe``, ``over_3px`` and ``d1`` of :class:`StereoErrors`, means over images. Of named scenes they are the first one's, and ``per_class`` has all."""
        rows = metrics["errors"].compute().tolist()
        found: dict[str, dict[str, float | None]] = {}
        for name, row in zip((*_scenes(bundle), ""), rows, strict=True):
            count = row[-1]
            found[name] = {key: value / count if count else None for key, value in zip(StereoErrors.names, row[:-1], strict=True)}
        unnamed = found.pop("")
        named = {name: numbers for name, numbers in found.items() if numbers["epe"] is not None}
        first = unnamed if not named else next(iter(named.values()))
        if first["epe"] is None:
            raise InputError("there is no pixel of known disparity to evaluate on; look at the truth of this split")
        return {**first, "per_class": named} if named else {**first}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        size = bundle.crop if isinstance(bundle, StereoBundle) else (bundle.img_size, bundle.img_size)
        return cost(model, (bundle.in_chans, *size))

    # -- pictures -------------------------------------------------------------------------------------------------------------------------------

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        rows = [Row("left image"), Row("truth")]
        for pair, (truth, scene) in samples:
            low, high = _range(truth)
            names = _scenes(bundle)
            rows[0].cells.append(Cell(to_pixels(pair[: len(pair) // 2]), names[scene] if scene >= 0 else ""))
            rows[1].cells.append(Cell(color_disparity(truth, low, high), f"{low:.1f} to {high:.1f} px"))
        return rows

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        """The prediction in the colors of the truth, and the error with its scale below it."""
        predicted, errors = Row("prediction"), Row("error")
        for (_, (truth, _)), disparity in zip(samples, outputs, strict=True):
            error = (disparity[-1] - truth).abs()
            known = error[error.isfinite()]
            predicted.cells.append(Cell(color_disparity(disparity[-1], *_range(truth)), f"EPE {known.mean():.2f} px" if len(known) else ""))
            wrong = f"{(known > 3).float().mean():.0%} over 3 px; " if len(known) else ""
            errors.cells.append(Cell(_with_bar(color_disparity(error, 0.0, WORST)), f"{wrong}dark 0, bright {WORST:.0f}+ px"))
        return [predicted, errors]

    def draw_prediction(self, inputs: Any, outputs: Any, bundle: DataBundle) -> list[Row]:
        left, right = inputs.chunk(2)
        disparity = outputs[0][-1]
        low, high = _range(disparity)
        return [
            Row("left image", [Cell(to_pixels(left))]),
            Row("right image", [Cell(to_pixels(right))]),
            Row("disparity", [Cell(_with_bar(color_disparity(disparity, low, high)), f"{low:.1f} (dark) to {high:.1f} px (bright)")]),
        ]


class StereoErrors(Metric):
    """Sums over images of each image's mean over its known pixels, by scene; images without a known pixel do not count.

    ``epe``       mean absolute difference of disparities, in pixels
    ``over_3px``  share of pixels off by more than 3 px, KITTI 2012's measure
    ``d1``        share of pixels off by more than 3 px and by more than 5 % of the truth, KITTI 2015's measure

    Args:
        scenes: S, how many have a name.

    ``compute`` gives ``(S + 1, 4)``: the three and the number of images; the last row is of images without a scene.
    """

    names: ClassVar[tuple[str, ...]] = ("epe", "over_3px", "d1")
    full_state_update = False
    sums: Tensor

    def __init__(self, scenes: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(scenes + 1, len(self.names) + 1), dist_reduce_fx="sum")

    def update(self, disparity: Tensor, truth: Tensor, scene: int) -> None:
        """Count an image, ``(H, W)`` both."""
        known = truth.isfinite()
        if not known.any():
            return
        truth = truth[known]
        error = (disparity[known] - truth).abs()
        over = error > 3
        self.sums[scene] += torch.stack([error.mean(), over.float().mean(), (over & (error > 0.05 * truth)).float().mean(), torch.ones_like(error[0])])

    def compute(self) -> Tensor:
        return self.sums


def color_disparity(values: Tensor, low: float, high: float) -> NDArray[np.uint8]:
    """``(H, W)`` to a picture from dark at ``low`` to bright at ``high``; blue where it is not finite."""
    numbers = values.detach().cpu().double().numpy()
    known = np.isfinite(numbers)
    place = np.clip((np.where(known, numbers, low) - low) / max(high - low, 1e-6), 0, 1)
    stops = np.linspace(0, 1, len(_SCALE))
    picture = np.stack([np.interp(place, stops, _SCALE[:, channel]) for channel in range(3)], axis=-1).round().astype(np.uint8)
    picture[~known] = UNKNOWN
    return picture


def _with_bar(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colors from least to most in a strip below the picture."""
    height, width = picture.shape[:2]
    thick = max(4, height // 16)
    bar = color_disparity(torch.linspace(0, 1, width).expand(thick, width), 0.0, 1.0)
    gap = np.full((max(2, thick // 3), width, 3), 255, np.uint8)
    return np.concatenate([picture, gap, bar])


def _range(values: Tensor) -> tuple[float, float]:
    known = values[values.isfinite()]
    return (known.min().item(), known.max().item()) if len(known) else (0.0, 1.0)


def _scenes(bundle: DataBundle) -> tuple[str, ...]:
    return bundle.scenes if isinstance(bundle, StereoBundle) else ()


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return moved_member(__name__, name, {"colour_disparity": "color_disparity"}, globals())
