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
    """From a PIL image to the model's input, ``(C, H, W)``; of a stereo run from two, in a list; of a video ``(C, T, H, W)``, in transformers ``(T, C, H, W)``.
    A ``ValueError`` where nothing says how."""
    labels: dict[int, str] = field(default_factory=dict)
    trained: bool = True
    notes: list[str] = field(default_factory=list)
    """What a reader of the maps should know."""
    num_frames: int | None = None
    """Of a network for videos that is no run: as many PIL images ``prepare`` takes, in a list. A run on videos takes the path of one."""
    recipe: Any = None
    """Of a run or checkpoint, the :class:`foveal.lab.training.Recipe`; else None."""
    bundle: Any = None
    """Of a run or checkpoint, its :class:`foveal.lab.data.DataBundle`; else None."""


class Inspection(NamedTuple):
    """What was drawn of a model and an image."""

    lines: list[str]
    """What is to be said."""
    files: list[Path]
