"""One image under a trained run: where it looks, and what it predicts."""

from pathlib import Path
from typing import Any

import torch

from .._errors import InputError
from ..analysis.pictures import write_map_sheet, write_sheet
from ..data import DataBundle
from ..models import VisionTransformer
from ..training import Recipe
from .look import class_token_maps

__all__ = ["inspect_image"]


@torch.no_grad()
def inspect_image(recipe: Recipe, bundle: DataBundle, model: Any, image: Any, folder: Path, *, title: str) -> tuple[str, list[Path]]:
    """Draw it.

    Args:
        recipe: of the run.
        bundle: its data.
        model: trained, in evaluation mode.
        image: a PIL image; for stereo left and right, in a list.
        folder: where the files go; it is made.
        title: of the page.

    Returns:
        What is to be seen, in a line, and the files written: of a vision transformer ``maps.png`` and ``maps.html``, else ``prediction.png`` and
        ``prediction.html``.

    Raises:
        ValueError: the task draws no predictions of single images.
    """
    inputs = bundle.prepare(image)
    if isinstance(model, VisionTransformer):
        probabilities = model(inputs[None]).softmax(-1)[0]
        grid = model.patch_embed.grid_size
        maps = {layer: {name: rows[0].unflatten(-1, grid) for name, rows in named.items()} for layer, named in class_token_maps(model, inputs[None]).items()}
        best = int(probabilities.argmax())
        about = f"predicted {bundle.classes[best]} with probability {probabilities[best]:.0%}; where the class token looks, by layer and head"
        write_map_sheet(inputs, maps, folder, title=title, about=about)
        return about, [folder / "maps.png", folder / "maps.html"]
    rows = recipe.task.draw_prediction(inputs, recipe.task.predict(model, inputs[None]), bundle)
    if not rows:
        raise InputError(f"{type(recipe.task).__name__} draws no predictions of single images")
    about = "; ".join(f"{row.title}: {', '.join(cell.caption for cell in row.cells)}" for row in rows if any(cell.caption for cell in row.cells))
    drawn = [(row.title, [(cell.picture, cell.caption) for cell in row.cells]) for row in rows]
    return about, write_sheet(drawn, folder, name="prediction", title=title, about=about)
