"""The model and the data of a recipe: as training begins with them, and as a finished run left them."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..._errors import InputError
from ...models import share_initial_weights_
from ..data import DataBundle
from .checkpoint import latest_checkpoint, read_weights, restore
from .judging import Diverged, not_finite
from .reading import Damaged, read_json, read_object
from .recipe import Data, Recipe, register_named_networks

__all__ = ["NETWORK", "UNAVERAGED", "build_alike", "build_model", "check_classes", "keeps_unaveraged", "load_data", "load_run"]

NETWORK = "network"
"""In the folder of a run, what its network is rebuilt of without the weights that it began with."""
UNAVERAGED = "unaveraged.safetensors"
"""In the folder of a run that published an average of its weights, the weights themselves."""


@lru_cache(maxsize=2)
def load_data(data: Data) -> DataBundle:
    """The data set, loaded once in a process."""
    return data.load()


def build_model(recipe: Recipe, bundle: DataBundle) -> Any:
    """The recipe's model with the initial weights that its seed decides."""
    kwargs = recipe.task.model_kwargs(bundle)
    register_named_networks(recipe.model)
    torch.manual_seed(recipe.seed)
    model = recipe.model.build(**kwargs)
    if recipe.share_initial_weights:
        torch.manual_seed(recipe.seed)
        share_initial_weights_(model, recipe.model.plain().build(**kwargs))
    return model


def build_alike(recipe: Recipe, bundle: DataBundle, run: Path | None = None) -> Any:
    """A model like :func:`build_model`'s whose weights do not matter or are filled in, so that nothing pretrained is read.

    Args:
        recipe: of the model.
        bundle: its data.
        run: a folder of its run, which holds what the network is rebuilt of.
    """
    if not recipe.model.brings_weights:
        return build_model(replace(recipe, model=recipe.model.blank()), bundle)
    kept = run / NETWORK if run is not None and (run / NETWORK).exists() else None
    register_named_networks(recipe.model)
    # whoever rebuilds a network draws no random numbers that somebody would miss
    with torch.random.fork_rng(devices=[]):
        return recipe.model.rebuild(kept, **recipe.task.model_kwargs(bundle))


def keeps_unaveraged(recipe: Recipe) -> bool:
    """Whether a run leaves the weights beside the average that it publishes. With ``patience`` that is the best one, and the weights of its step are gone."""
    return recipe.optim.ema is not None and recipe.patience is None


def load_run(run: Path, *, judged_as: Callable[[Recipe], Recipe] | None = None, averaged: bool | None = None) -> tuple[Recipe, DataBundle, Any]:
    """A finished run: its recipe, data and trained model in evaluation mode.

    Args:
        run: its folder.
        judged_as: gives the recipe with other data or another task, to be judged on; the model stays the run's.
        averaged: True asks for the average of the weights, False for the weights themselves, of a run that kept an average; what was judged if None.

    Raises:
        ValueError: the folder is no run, the run has not finished, its data have other classes than it was trained on, or it has no such weights.
    """
    if not (run / "recipe.json").exists():
        raise InputError(f"{run} is no run: it has no recipe.json")
    recipe = Recipe.from_dict(read_object(run / "recipe.json"))
    if not (run / "model.safetensors").exists():
        raise InputError(f"{run} has not finished; go on with: foveal train --resume {run}")
    weights = _weights(run, recipe, averaged)
    recipe = recipe if judged_as is None else judged_as(recipe)
    bundle = load_data(recipe.data)
    check_classes(run, bundle)
    model = build_alike(recipe, bundle, run)
    restore(model, read_weights(weights), weights)
    spoilt = not_finite(model)
    if spoilt:
        raise Diverged(f"{weights} holds weights that are no numbers: {spoilt[0]} and {len(spoilt) - 1} more; train again with a lower --optim.lr")
    return recipe, bundle, model.eval()


def _weights(run: Path, recipe: Recipe, averaged: bool | None) -> Path:
    """The file of the weights that are asked for."""
    if averaged is not None and recipe.optim.ema is None:
        raise InputError(f"{run} kept no average of its weights (its optim.ema is None), so there is one kind of them; do not ask for either")
    if averaged is not False:
        return run / "model.safetensors"
    if not keeps_unaveraged(recipe):
        raise InputError(
            f"{run} was trained with patience, which keeps the best average alone and not the weights of that step; take the average, or train without patience"
        )
    file = run / UNAVERAGED
    if not file.exists():
        # a run of before it was written, or of a comparison of large networks, which keeps neither it nor checkpoints
        remedy = f"foveal train --resume {run} writes it, out of the last checkpoint"
        remedy = remedy if latest_checkpoint(run) else "take the average, or train into a new folder"
        raise InputError(f"{run} has no {UNAVERAGED}, the weights without average; {remedy}")
    return file


def check_classes(run: Path, bundle: DataBundle) -> None:
    """As many classes of other names would fit the weights, and every answer would be wrong."""
    file = run / "classes.json"
    if not file.exists():  # a run of before they were written
        return
    trained, now = read_json(file), list(bundle.classes)
    if not isinstance(trained, list) or not all(isinstance(name, str) for name in trained):
        raise Damaged(f"{file} is damaged: expected a list of the names of classes, got {repr(trained)[:80]}; take it from a copy of the run")
    if trained != now:
        at = next((n for n, (old, new) in enumerate(zip(trained, now, strict=False)) if old != new), min(len(trained), len(now)))
        was, is_now = (f"{names[at]!r}" if at < len(names) else "none" for names in (trained, now))
        raise InputError(
            f"{run} was trained on {len(trained)} classes and its data have {len(now)} now, number {at} being {was} then and {is_now} now; "
            f"its data must have the classes that they had in training, which are in {file}"
        )
