"""A loaded model and an image or a clip, as the attention viewer takes them, and what the model answers."""

from typing import Any

from torch import Tensor

from ...analysis.viewer import ViewedModel, view_model
from ...analysis.viewer.gather import Beside, answer_
from ...convert import Where
from .loaded import LoadedModel

__all__ = ["introduced", "prediction", "view_loaded"]


def view_loaded(
    loaded: LoadedModel,
    image: Any,
    *,
    where: Where = "*",
    truth: str | None = None,
    name: str | None = None,
    inputs: Tensor | None = None,
    beside: Beside | None = None,
) -> ViewedModel:
    """A loaded model and a PIL image, for :func:`foveal.analysis.viewer.write_page`; or in its place what the model takes, as of a clip.

    Raises:
        ValueError: the model has no attention over the whole image; a true class that it does not know.
    """
    known: Any = int(truth) if truth is not None and truth.isdecimal() and truth not in loaded.labels.values() else truth
    given = loaded.prepare(image)[None] if inputs is None else inputs
    called = name or loaded.name
    viewed = view_model(loaded.model, given, name=called, where=where, labels=loaded.labels, truth=known, trained=loaded.trained, beside=beside)
    viewed.notes = [*loaded.notes, *viewed.notes]
    return viewed


def introduced(loaded: LoadedModel) -> str:
    """What a reader must know of it first."""
    return loaded.name + ("" if loaded.trained else ", weights drawn at random: nothing was learned")


def prediction(loaded: LoadedModel, inputs: Tensor, viewed: ViewedModel | None) -> list[str]:
    """The likeliest class, in a line; nothing of a model that has learned none.

    Args:
        loaded: the model; it runs where it was not viewed.
        inputs: as it takes them, with an axis for the batch.
        viewed: what was seen of it.
    """
    if not loaded.trained or not loaded.labels:
        return []
    if viewed is None:
        viewed = ViewedModel(loaded.name, [])
        answer_(viewed, loaded.model, inputs, loaded.labels, None)
    return [f"predicted {label} with probability {chance:.0%}" for label, chance in viewed.answers[:1]]
