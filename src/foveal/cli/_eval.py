"""``foveal eval``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._console import console, table
from .._errors import InputError
from ._options import parse

__all__ = ["evaluate_run"]


def evaluate_run(words: list[str]) -> None:
    """Print and write the metrics of a finished run: eval RUN"""
    chosen = parse(_Eval, "eval", words)
    run, out = chosen.run, chosen.out or chosen.run
    import torch

    from .._machine import workers_note
    from ..lab.inspect import load_model
    from ..lab.training import evaluate, scalars

    loaded = load_model(str(run), accept=["run"])
    recipe, bundle, model = loaded.recipe, loaded.bundle, loaded.model
    if note := workers_note(recipe.workers):
        print(note, file=sys.stderr)
    if torch.accelerator.is_available():
        # where it was trained, so that its numbers are those that training wrote
        model = model.to(torch.accelerator.current_accelerator())
    splits: dict[str, Any] = {}
    contents: dict[Path, Any] = {out / "eval.json": splits}
    for name, split in {"val": bundle.val, "test": bundle.test, **bundle.probes}.items():
        results: list[Any] = []
        splits[name] = evaluate(model, split, recipe, bundle, results=results)
        if results:
            contents[out / f"results-{name}.json"] = results
    columns = {number: None for metrics in splits.values() for number in scalars(metrics)}
    rows = ((name, *("–" if metrics[number] is None else f"{metrics[number]:.4f}" for number in columns)) for name, metrics in splits.items())
    console().print(table(("split", *columns), rows))
    classes = splits["test"].get("per_class")
    if classes:
        rows = ((name, *("–" if value is None else f"{value:.4f}" for value in numbers.values())) for name, numbers in classes.items())
        console().print(table(("class", *next(iter(classes.values()))), rows, title="test, by class", title_justify="left"))
    _write(contents)


def _write(contents: dict[Path, Any]) -> None:
    """After all is shown: what was worked out is not lost where nothing can be written."""
    from ..lab.training import write_json

    for path, content in contents.items():
        try:
            write_json(path, content)
        except OSError as error:
            raise InputError(f"the numbers above could not be written to {path}: {error.strerror or error}; choose a folder with --out") from error
    print("\n".join(map(str, contents)))


@dataclass(frozen=True)
class _Eval:
    """Print the metrics of a finished run on all its splits, and write them to RUN/eval.json."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    out: Path | None = None
    """Folder for eval.json and files of results; RUN if not given."""
