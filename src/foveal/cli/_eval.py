"""``foveal eval``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from ._base import parse

__all__ = ["evaluate_run"]


def evaluate_run(words: list[str]) -> None:
    """Print and write the metrics of a finished run: eval RUN"""
    run = parse(_Eval, "eval", words).run
    from ..training import evaluate, load_run, scalars, write_json

    recipe, bundle, model = load_run(run)
    splits, files = {}, [run / "eval.json"]
    for name, split in {"val": bundle.val, "test": bundle.test, **bundle.probes}.items():
        results: list[Any] = []
        splits[name] = evaluate(model, split, recipe, bundle, results=results)
        if results:
            files.append(run / f"results-{name}.json")
            write_json(files[-1], results)
    write_json(run / "eval.json", splits)
    columns = {number: None for metrics in splits.values() for number in scalars(metrics)}
    table = Table("split", *columns)
    for name, metrics in splits.items():
        table.add_row(name, *("–" if metrics[number] is None else f"{metrics[number]:.4f}" for number in columns))
    Console().print(table)
    classes = splits["test"].get("per_class")
    if classes:
        table = Table("class", *next(iter(classes.values())), title="test, by class", title_justify="left")
        for name, numbers in classes.items():
            table.add_row(name, *("–" if value is None else f"{value:.4f}" for value in numbers.values()))
        Console().print(table)
    print("\n".join(map(str, files)))


@dataclass(frozen=True)
class _Eval:
    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""
