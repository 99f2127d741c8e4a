"""What loading a model gives, what may be asked of it, and what drawing its maps gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

__all__ = ["Inspection", "LoadedModel", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """How a model is to be loaded."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """random builds the architecture and loads nothing; never random because others are missing."""
    img_size: int | None = None
    """Side of the images, for networks of a fixed size; their own if None."""
    base: str | None = None
    """timm's name of what a file of weights is for."""


@dataclass
class LoadedModel:
    """A model, and how an image is made ready for it."""

    name: str
    model: nn.Module
    prepare: Callable[[Any], Tensor]
    """From a PIL image to the model's input, ``(C, H, W)``; of a stereo run from two, in a list. A ``ValueError`` where nothing says how."""
    labels: dict[int, str] = field(default_factory=dict)
    trained: bool = True
    notes: list[str] = field(default_factory=list)
    """What a reader of the maps should know."""
    prepare_clip: Callable[[Any], Tensor] | None = None
    """Of a model on videos, from an open ``foveal.lab.data.video.VideoClip`` to its input, ``(C, T, H, W)``; None of one on images."""
    frames_first: bool = False
    """Whether the model takes clips as ``(T, C, H, W)``, as transformers' do."""
    recipe: Any = None
    """Of a run or checkpoint, the :class:`foveal.lab.training.Recipe`; else None."""
    bundle: Any = None
    """Of a run or checkpoint, its :class:`foveal.lab.data.DataBundle`; else None."""

    def to_input(self, clip: Tensor) -> Tensor:
        """A clip ``(C, T, H, W)`` as the model takes it, with an axis for the batch."""
        return (clip.transpose(0, 1) if self.frames_first else clip)[None]


class Inspection(NamedTuple):
    """What was drawn of a model and an image."""

    lines: list[str]
    """What is to be said."""
    files: list[Path]
