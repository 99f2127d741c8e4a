"""Runs and their checkpoints as models; what trains is imported where one is met."""

from pathlib import Path
from typing import Any

from torch import nn

from ..._errors import InputError
from .loaded import LoadedModel, Wanted
from .reference import ModelReference

__all__ = ["load_checkpoint", "load_finished_run"]


def load_finished_run(found: ModelReference, wanted: Wanted) -> LoadedModel:
    from ..training import load_run

    _check(found, wanted)
    recipe, bundle, model = load_run(Path(found.name))
    return _loaded(Path(found.name).name, recipe, bundle, model)


def load_checkpoint(found: ModelReference, wanted: Wanted) -> LoadedModel:
    from ..training import Recipe, build_model, load_data, read_checkpoint, read_json, restore

    _check(found, wanted)
    path = Path(found.name)
    recipe = Recipe.from_dict(read_json(path.resolve().parents[1] / "recipe.json"))
    saved = read_checkpoint(path, recipe.to_dict())
    bundle = load_data(recipe.data)
    model: nn.Module = build_model(recipe, bundle)
    restore(model, saved["weights"] if saved["ema"] is None else saved["ema"], path)
    return _loaded(path.name, recipe, bundle, model)


def _check(found: ModelReference, wanted: Wanted) -> None:
    if wanted.weights == "random":
        raise InputError(f"{found.word} has weights of its own; leave random ones out")


def _loaded(name: str, recipe: Any, bundle: Any, model: nn.Module) -> LoadedModel:
    from ..data import VideoBundle

    clips = bundle.prepare_clip if isinstance(bundle, VideoBundle) else None
    return LoadedModel(name, model, bundle.prepare, dict(enumerate(bundle.classes)), prepare_clip=clips, recipe=recipe, bundle=bundle)
