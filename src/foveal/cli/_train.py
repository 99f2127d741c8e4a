"""``foveal train``."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._errors import InputError
from ._base import Stopped, parse

__all__ = ["train"]


def train(words: list[str]) -> None:
    """Train a recipe, go on with a run, or repeat one: train RECIPE | --resume RUN | --from recipe.json"""
    from ..recipes import get_recipe, list_recipes
    from ..training import Recipe, read_json

    if not words or words[0] in ("-h", "--help"):
        recipes = "\n".join(f"  {name:<18}{about}" for name, about in list_recipes().items())
        print(f"usage: foveal train RECIPE [OPTIONS]\n       foveal train --resume RUN\n       foveal train --from recipe.json [OPTIONS]\n\n{recipes}")
        print("\nfoveal train RECIPE --help shows every option with its default.")
        return
    if words[0] == "--resume":
        run = parse(_Resume, "train", words).resume
        _fit(Recipe.from_dict(read_json(run / "recipe.json")), run, resume=True)
        return
    if words[0] == "--from":
        if len(words) < 2:
            raise InputError("--from needs a file: the recipe.json of a run")
        name, recipe, rest = f"--from {words[1]}", Recipe.from_dict(read_json(Path(words[1]))), words[2:]
    else:
        name, recipe, rest = words[0], get_recipe(words[0]), words[1:]
    chosen = parse(_Train, f"train {name}", rest, default=_Train(recipe))
    out = chosen.out or Path("runs") / f"{words[0].strip('-')}-{datetime.now():%Y%m%d-%H%M%S}"
    _fit(chosen.recipe, out, resume=False)


@dataclass(frozen=True)
class _Resume:
    resume: Path
    """Folder of a run."""


@dataclass(frozen=True)
class _Train:
    recipe: Annotated[Any, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder for the run; runs/RECIPE-TIME if not given."""


def _fit(recipe: Any, run: Path, *, resume: bool) -> None:
    from ..training import Interrupted, fit

    try:
        metrics = fit(recipe, run, resume=resume)
    except Interrupted as stopped:
        raise Stopped(str(stopped)) from stopped
    # every process of torchrun comes here
    if os.environ.get("RANK", "0") == "0":
        headline = recipe.task.headline
        loss = f", loss {metrics['loss']:.3f}" if "loss" in metrics else ""
        print(f"{metrics['split']}: {headline.label} {headline.show(metrics[headline.name])}{loss}\n{run}")
