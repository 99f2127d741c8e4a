"""A loaded model and an image or a clip, as the attention viewer takes them."""

from typing import Any

from torch import Tensor

from ...analysis.viewer import ViewedModel, view_model
from ...convert import Where
from .loaded import LoadedModel

__all__ = ["view_loaded"]


def view_loaded(
    loaded: LoadedModel, image: Any, *, where: Where = "*", truth: str | None = None, name: str | None = None, inputs: Tensor | None = None
) -> ViewedModel:
    """A loaded model and a PIL image, for :func:`foveal.analysis.viewer.write_page`; or in its place what the model takes, as of a clip.

    Raises:
        ValueError: the model has no attention over the whole image; a true class that it does not know.
    """
    known: Any = int(truth) if truth is not None and truth.isdecimal() and truth not in loaded.labels.values() else truth
    given = loaded.prepare(image)[None] if inputs is None else inputs
    viewed = view_model(loaded.model, given, name=name or loaded.name, where=where, labels=loaded.labels, truth=known, trained=loaded.trained)
    viewed.notes = [*loaded.notes, *viewed.notes]
    return viewed
