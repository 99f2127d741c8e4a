"""The attention viewer's page of a clip, on which a reader asks patch by patch and frame by frame; of one model, or of two side by side."""

from pathlib import Path

from torch import Tensor

from ...analysis.viewer import ViewedModel, write_page
from ...analysis.viewer._clips import frames_of
from ...analysis.viewer.gather import Beside
from ...convert import Where
from .loaded import LoadedModel
from .viewing import view_loaded

__all__ = ["Shown", "view_clip", "write_clip_page"]

Shown = tuple[ViewedModel, Tensor]
"""A model, and its frames ``(T, C, H, W)``."""


def view_clip(
    loaded: LoadedModel, clip: Tensor, *, where: Where = "*", truth: str | None = None, name: str | None = None, beside: Beside | None = None
) -> Shown:
    """What the page shows of a model and its input, ``(C, T, H, W)``.

    Raises:
        ValueError: the model has no attention that the page can show; a true class that it does not know.
    """
    inputs = loaded.to_input(clip)
    return view_loaded(loaded, None, where=where, truth=truth, name=name, inputs=inputs, beside=beside), frames_of(loaded.model, inputs[0])


def write_clip_page(shown: list[Shown], path: Path, *, title: str) -> Path:
    """Write the page, with a slider of frames."""
    return write_page([viewed for viewed, _ in shown], [frames for _, frames in shown], title=title).save(path)
