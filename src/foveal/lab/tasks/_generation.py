"""What tasks share whose networks draw images: the word of their data, and what ``foveal sample`` asks of them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data import DataBundle, ImageBundle
from ._image_grid import pixels
from ._task import Cell, Row, Task

__all__ = ["Generation", "size_of"]


class Generation(Task):
    """Samples of a split are ``(image, class)``, the image ``(C, H, W)`` from −1 to 1; where there are no classes it is 0."""

    targets: ClassVar[str] = "images"

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        return {"img_size": size_of(bundle), "in_chans": bundle.in_chans, "num_classes": len(bundle.classes)}

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Images and classes are what the network sees; the classes once more are what counts them."""
        images, labels = super().collate(samples)
        return (images, labels), labels

    @abstractmethod
    def sample(
        self, model: nn.Module, bundle: DataBundle, labels: Sequence[int], *, seed: int = 0, guidance: float | None = None, steps: int | None = None
    ) -> Tensor:
        """Draw images.

        Args:
            model: trained, in evaluation mode.
            bundle: its data, of which the sizes count.
            labels: the class of each image.
            seed: image i follows from it and i, whatever else is drawn.
            guidance: how far beyond the unconditional answer it goes; the task's own if None.
            steps: how many calls of the network make an image; the task's own if None.

        Returns:
            ``(n, C, H, W)`` from −1 to 1, on the CPU.
        """

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
