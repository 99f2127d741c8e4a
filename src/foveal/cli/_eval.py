"""``foveal eval``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._console import console, table
from ._options import parse

__all__ = ["evaluate_run"]


def evaluate_run(words: list[str]) -> None:
    """Print and write the metrics of a finished run: eval RUN"""
    run = parse(_Eval, "eval", words).run
    from .._machine import workers_note
    from ..training import evaluate, load_run, scalars, write_json

    recipe, bundle, model = load_run(run)
    if note := workers_note(recipe.workers):
        print(note, file=sys.stderr)
    splits, files = {}, [run / "eval.json"]
    for name, split in {"val": bundle.val, "test": bundle.test, **bundle.probes}.items():
        results: list[Any] = []
        splits[name] = evaluate(model, split, recipe, bundle, results=results)
        if results:
            files.append(run / f"results-{name}.json")
            write_json(files[-1], results)
    write_json(run / "eval.json", splits)
    columns = {number: None for metrics in splits.values() for number in scalars(metrics)}
    rows = ((name, *("–" if metrics[number] is None else f"{metrics[number]:.4f}" for number in columns)) for name, metrics in splits.items())
    console().print(table(("split", *columns), rows))
    classes = splits["test"].get("per_class")
    if classes:
        rows = ((name, *("–" if value is None else f"{value:.4f}" for value in numbers.values())) for name, numbers in classes.items())
        console().print(table(("class", *next(iter(classes.values()))), rows, title="test, by class", title_justify="left"))
    print("\n".join(map(str, files)))


@dataclass(frozen=True)
class _Eval:
    """Print the metrics of a finished run on all its splits, and write them to RUN/eval.json."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
