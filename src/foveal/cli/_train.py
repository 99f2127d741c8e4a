"""``foveal train``."""

import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._errors import InputError
from ._next import next_lines, with_run
from ._options import parse
from ._recipe_names import recipe_names
from ._stopped import Stopped
from ._verbs import VERBS

__all__ = ["train"]

_MOST = 1e9


def train(words: list[str]) -> None:
    """Train a recipe, go on with a run, or repeat one: train RECIPE | --resume RUN | --from recipe.json"""
    if words[:1] == ["fine-tune"]:
        # it has options of its own, out of which the recipe is made
        from ._fine_tune import fine_tune

        fine_tune(words[1:])
        return
    if not words or words[0] in ("-h", "--help"):
        known = recipe_names()
        width = max(map(len, known))
        recipes = "\n".join(f"  {name:<{width}}  {about}" for name, about in known.items())
        uses = ("RECIPE [--smoke] [OPTIONS]", "fine-tune --model NAME --data DIR [OPTIONS]", "--from recipe.json [--smoke] [OPTIONS]", "--resume RUN")
        print("\n".join(f"{'       ' if place else 'usage: '}foveal train {use}" for place, use in enumerate(uses)) + f"\n\n{recipes}")
        print(f"\nfoveal train RECIPE --help shows every option with its default.\nExample: {VERBS['train'].example}")
        return
    from .._machine import first_process
    from ..lab.recipes import get_recipe, smoke
    from ..lab.training import Recipe, read_json

    if words[0] == "--smoke" and len(words) > 1:
        # before the recipe it means what it means behind it
        words = [*words[1:], words[0]]
    if words[0] == "--resume":
        run = parse(_Resume, "train", words).resume
        if not (run / "recipe.json").exists():
            raise InputError(f"{run} is no run: it has no recipe.json; expected the folder of a run, as foveal train makes it")
        _fit(Recipe.from_dict(read_json(run / "recipe.json")), run, resume=True)
        return
    if words[0] == "--from":
        if len(words) < 2:
            raise InputError("--from needs a file: the recipe.json of a run")
        name, recipe, rest = f"--from {words[1]}", Recipe.from_dict(read_json(Path(words[1]))), words[2:]
    else:
        name, recipe, rest = words[0], get_recipe(words[0]), words[1:]
    chosen = parse(_Train, f"train {name}", rest, flags=True, default=_Train(recipe))
    if chosen.epochs is not None:
        chosen = replace(chosen, recipe=_of_epochs(chosen, rest))
    out = chosen.out or Path("runs") / f"{'smoke-' * chosen.smoke}{words[0].strip('-')}-{datetime.now():%Y%m%d-%H%M%S}"
    _fit(smoke(chosen.recipe) if chosen.smoke else chosen.recipe, out, resume=False)
    if chosen.smoke and first_process():
        print("a smoke run, smoke test only: it shows that the recipe runs, with a small network on data that stand in; its numbers show nothing")


@dataclass(frozen=True)
class _Resume:
    """Resume a run from its newest checkpoint."""

    resume: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of a run."""


@dataclass(frozen=True)
class _Train:
    """Train a recipe; every field of it is an option."""

    # its fields are JSON's: true or false is said, whichever the recipe has
    recipe: Annotated[Any, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """See in seconds that recipe and options run: a small network, few steps of few samples, and data out of a package where the recipe's are a folder."""
    epochs: float | None = None
    """Passes over the training data, in place of --steps; made into steps when the data were loaded."""
    out: Path | None = None
    """Folder for the run; runs/RECIPE-TIME if not given."""


def _of_epochs(chosen: _Train, words: list[str]) -> Any:
    """The recipe with as many steps as its epochs have; data are loaded once, and the training finds them."""
    from .._machine import first_process
    from ..lab.training import load_data

    recipe, epochs = chosen.recipe, chosen.epochs
    assert epochs is not None, "asked only where it was given"
    if chosen.smoke or any(word.partition("=")[0] == "--steps" for word in words):
        raise InputError(f"--epochs decides the steps, and so does {'--smoke' if chosen.smoke else '--steps'}; give one of them")
    if not 0 < epochs < _MOST:
        raise InputError(f"epochs must be above 0 and below {_MOST:g}, got {epochs}")
    samples = len(load_data(recipe.data).train)
    steps = max(1, round(epochs * samples / recipe.batch_size))
    if first_process():
        print(f"{epochs:g} epochs of {samples:,} samples are {steps:,} steps of {recipe.batch_size}")
    return replace(recipe, steps=steps)


def _fit(recipe: Any, run: Path, *, resume: bool) -> None:
    from .._machine import first_process, workers_note
    from ..lab.training import Interrupted, fit

    note = workers_note(recipe.workers)
    if note and first_process():
        print(note, file=sys.stderr)
    kept = None
    if type(recipe.model).__name__ == "Pretrained":
        from ._fine_tune import features_folder

        kept = features_folder(recipe, run)
    try:
        metrics = fit(recipe, run, resume=resume, features=kept)
    except Interrupted as stopped:
        raise Stopped(str(stopped)) from stopped
    if first_process() and type(recipe.model).__name__ == "Pretrained":
        from ._fine_tune import finish

        finish(run)
    elif first_process():
        headline = recipe.task.primary_metric
        loss = f", loss {metrics['loss']:.3f}" if "loss" in metrics else ""
        print(f"{metrics['split']}: {headline.label} {headline.show(metrics[headline.name])}{loss}\n{run}")
        print(next_lines(with_run(recipe.task, run)))
