"""A model by a word: resolved, then loaded by what it is. One entry of ``LOADERS`` a source."""

from collections.abc import Callable, Collection
from typing import Literal

from ..._errors import InputError
from ._networks import load_from_folder, load_from_hub, load_torchvision, load_wheel
from ._runs import load_checkpoint, load_finished_run
from ._timm import load_timm, load_weights
from ._transformers import load_transformers
from .loaded import LoadedModel, Wanted
from .reference import SOURCES, ModelReference, resolve_model

__all__ = ["LOADERS", "load_model"]

LOADERS: dict[str, Callable[[ModelReference, Wanted], LoadedModel]] = {
    "run": load_finished_run,
    "checkpoint": load_checkpoint,
    "weights": load_weights,
    "folder": load_from_folder,
    "timm": load_timm,
    "torchvision": load_torchvision,
    "transformers": load_transformers,
    "wheel": load_wheel,
    "hub": load_from_hub,
}


def load_model(
    what: str | ModelReference,
    *,
    weights: Literal["pretrained", "random"] = "pretrained",
    img_size: int | None = None,
    base: str | None = None,
    accept: Collection[str] = tuple(SOURCES),
) -> LoadedModel:
    """The model of a word, in evaluation mode.

    Args:
        what: see :func:`resolve_model`, or what it gave.
        weights: ``random`` builds the model and loads nothing; never random because others are missing.
        img_size: side of the images, for networks of a fixed size.
        base: timm's name of the model that a file of weights is for.
        accept: as for :func:`resolve_model`.

    Raises:
        ValueError: no such model; weights that are not there, do not fit, or leave a part of the model without; random weights for what has its own.
    """
    found = resolve_model(what, accept=accept) if isinstance(what, str) else what
    if base is not None and found.source != "weights":
        raise InputError(f"--model says what a file of weights is for, and {found.word} is no file")
    loaded = LOADERS[found.source](found, Wanted(weights, img_size, base))
    loaded.model.eval()
    return loaded
