"""Functions that did before 0.2 what :func:`load_model` and :func:`inspect_run` do. For one minor version; asking for one warns."""

from pathlib import Path
from typing import Any

from torch import nn

from ..._errors import InputError
from .conversion import convert_named_
from .loaded import Inspection, LoadedModel
from .loading import load_model
from .reference import resolve_model
from .run_page import inspect_run

__all__ = ["OLD"]


def _find_model(what: str, *, attention: str | None = None, where: str = "*", img_size: int | None = None, pretrained: bool = False) -> nn.Module:
    found = resolve_model(what)
    if attention is None and where != "*":
        raise InputError(f"where={where!r} says what is converted, and no attention is named; give --attention as well")
    model = load_model(found, weights="pretrained" if pretrained or found.has_own_weights else "random", img_size=img_size).model
    if attention is not None:
        convert_named_(model, attention, where)
    return model.eval()


def _open_model(what: str, *, model: str | None = None, random_weights: bool = False) -> LoadedModel:
    return load_model(what, weights="random" if random_weights else "pretrained", base=model)


def _inspect_image(recipe: Any, bundle: Any, model: Any, image: Any, folder: Path, *, title: str) -> Inspection:
    return inspect_run(LoadedModel(title, model, bundle.prepare, recipe=recipe, bundle=bundle), image, folder, title=title)


OLD: dict[str, tuple[str, Any]] = {
    "Opened": ("LoadedModel", LoadedModel),
    "find_model": ("load_model", _find_model),
    "inspect_image": ("inspect_run", _inspect_image),
    "open_model": ("load_model and its argument weights", _open_model),
}
"""Old name: how what replaces it is called, and what the old one gives."""
