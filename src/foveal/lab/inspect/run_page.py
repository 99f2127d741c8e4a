"""A trained run and one image, drawn: where its model looks, or what it predicts."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError
from ...analysis import summary_maps
from ...analysis.maps import NothingToShow
from ...analysis.pictures import overlaid, to_pixels, write_sheet
from ..tasks import Cell, Row
from .loaded import Inspection, LoadedModel
from .model_page import inspect_model
from .viewing import prediction

__all__ = ["inspect_run"]

SHOWN_MAPS = 12
"""Of a layer; those that vary most over the image."""
_MULTIPLE, _LONGEST = 32, 1024
"""Networks pad images to multiples of their stride: padded beforehand, image and maps lie on one another. Longer images are made smaller to be looked at."""


@torch.no_grad()
def inspect_run(loaded: LoadedModel, image: Any, folder: Path, *, title: str, against: LoadedModel | None = None, truth: str | None = None) -> Inspection:
    """Draw it.

    Of a classifier what :func:`inspect_model` draws, if its layers have maps over the image; of other runs, and of classifiers without, ``prediction.png`` and
    ``prediction.html``. Below the prediction stand the maps of the external, efficient and linear blocks of networks on feature maps, by slot or by channel
    of the keys.

    Args:
        loaded: a run or checkpoint.
        image: a PIL image; for stereo left and right, in a list.
        folder: where the files go; it is made.
        title: of the page.
        against: another model, beside the first on ``attention.html``.
        truth: the true class, by its index or its name.

    Raises:
        ValueError: no run; the task draws no predictions of single images; another model or a true class where no maps are drawn.
    """
    if loaded.recipe is None:
        raise InputError(f"{loaded.name} is no run; any other model is for inspect_model")
    model: Any = loaded.model
    task, bundle = loaded.recipe.task, loaded.bundle
    classifies, unseen = task.targets == "labels", list[str]()
    if classifies:
        try:
            return inspect_model(loaded, image, folder, title=title, against=against, truth=truth)
        except NothingToShow as error:
            unseen.append(f"no maps: {error}")
    if against is not None or truth is not None:
        raise InputError(f"{loaded.name} is a {type(model).__name__}, of which no maps are drawn; leave out --against and --truth")
    inputs = loaded.prepare(image)
    if classifies:
        rows = [Row("prediction", [Cell(to_pixels(inputs), line) for line in prediction(loaded, inputs[None], None)])]
    else:
        rows = task.draw_prediction(inputs, task.predict(model, inputs[None]), bundle)
    if classifies or task.targets == "masks":
        rows += _summaries(model, inputs)
    if not rows:
        raise InputError(f"{type(task).__name__} draws no predictions of single images")
    about = "; ".join(f"{row.title}: {', '.join(cell.caption for cell in row.cells)}" for row in rows if any(cell.caption for cell in row.cells))
    drawn = [(row.title, [(cell.picture, cell.caption) for cell in row.cells]) for row in rows]
    return Inspection([*about.splitlines(), *unseen], write_sheet(drawn, folder, name="prediction", title=title, about=about))


def _summaries(model: nn.Module, image: Tensor) -> list[Row]:
    """A row for each block whose pixels meet in slots or in channels of keys; none if the network has no such block."""
    shrunk = min(1.0, _LONGEST / max(image.shape[-2:]))
    whole = image[None] if shrunk == 1 else F.interpolate(image[None], scale_factor=shrunk, mode="bilinear", antialias=True)
    padded = F.pad(whole, (0, -whole.shape[-1] % _MULTIPLE, 0, -whole.shape[-2] % _MULTIPLE))
    pixels = to_pixels(padded[0])
    rows = []
    for layer, maps in summary_maps(model, padded).items():
        values = maps[0]
        varies = values.flatten(1).std(-1, correction=0) / values.flatten(1).abs().mean(-1).clamp_min(torch.finfo(values.dtype).tiny)
        chosen = varies.argsort(descending=True, stable=True)[:SHOWN_MAPS].tolist()
        signed = bool((values < 0).any())
        cells = [Cell(overlaid(pixels, values[number], signed=signed), f"map {number}") for number in chosen]
        rows.append(Row(f"{layer}, {len(chosen)} of {len(values)} maps" if len(chosen) < len(values) else layer, cells))
    return rows
