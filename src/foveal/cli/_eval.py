"""``foveal eval``."""

import sys
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._console import console, table
from .._errors import InputError
from ._next import next_lines, with_run
from ._options import parse

__all__ = ["evaluate_run"]


def evaluate_run(words: list[str]) -> None:
    """Print and write the metrics of a finished run: eval RUN"""
    chosen, changed = _chosen(words)
    run, out = chosen.run, chosen.out or chosen.run
    import torch

    from .._machine import workers_note
    from ..lab.inspect import resolve_model
    from ..lab.training import evaluate, load_run, scalars

    found = resolve_model(str(run), accept=["run"])
    judged_as = (lambda recipe: replace(recipe, data=chosen.data, task=chosen.task)) if changed else None
    recipe, bundle, model = load_run(Path(found.name), judged_as=judged_as)
    recipe.task.check_data(bundle)
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
    notes = _assess(recipe.task, model, bundle, Path(found.name), splits["test"])
    if changed:
        contents[out / "settings.json"] = changed
        print("judged with other settings than the run's: " + ", ".join(f"{name} {value['here']} (run: {value['run']})" for name, value in changed.items()))
    columns = {number: None for metrics in splits.values() for number in scalars(metrics)}
    rows = ((name, *("–" if metrics.get(number) is None else f"{metrics[number]:.4f}" for number in columns)) for name, metrics in splits.items())
    console().print(table(("split", *columns), rows))
    classes = splits["test"].get("per_class")
    if classes:
        rows = ((name, *("–" if value is None else f"{value:.4f}" for value in numbers.values())) for name, numbers in classes.items())
        console().print(table(("class", *next(iter(classes.values()))), rows, title="test, by class", title_justify="left"))
    for note in notes:
        print(note)
    _write(contents)
    if following := next_lines(with_run(recipe.task, Path(found.name), judged=True)):
        print(following)


def _assess(task: Any, model: Any, bundle: Any, run: Path, numbers: dict[str, Any]) -> list[str]:
    """What a task measures of a finished run besides, into the numbers of its test; and what it says of it."""
    found = task.assess(model.eval(), bundle, run)
    notes: list[str] = found.pop("notes", [])
    numbers |= found
    return notes


def _chosen(words: list[str]) -> tuple[Any, dict[str, Any]]:
    """The options, and by name those settings of data and task that are not the run's: their value here and the run's."""
    if not any(word.startswith(("--task.", "--data.")) for word in words):
        return parse(_Eval, "eval", words), {}
    from ..lab.training import Recipe, read_json

    # the options are those of the run's own data and task, so the run comes first
    run = Path(words[0])
    if words[0].startswith("-") or not (run / "recipe.json").exists():
        raise InputError(f"settings of data and task come behind the run that is judged: foveal eval RUN --task.NAME …; {words[0]} is no run")
    recipe = Recipe.from_dict(read_json(run / "recipe.json"))
    own = [(part, Annotated[type(getattr(recipe, part)), tyro.conf.FlagConversionOff], field(default=getattr(recipe, part))) for part in ("data", "task")]
    kind: Any = make_dataclass("_EvalAs", own, bases=(_Eval,), kw_only=True, frozen=True)
    chosen = parse(kind, "eval", words)
    changed: dict[str, dict[str, Any]] = {}
    for part in ("data", "task"):
        here, there = asdict(getattr(chosen, part)), asdict(getattr(recipe, part))
        changed |= {f"{part}.{name}": {"here": here[name], "run": there[name]} for name in here if here[name] != there[name]}
    if changed and chosen.out is None:
        raise InputError(f"{', '.join(changed)} differ from the run's, whose eval.json is of its own settings; say with --out where these numbers go")
    return chosen, {name: {key: _plain(one) for key, one in value.items()} for name, value in changed.items()}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


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
    """Print the metrics of a finished run on all its splits, and write them to RUN/eval.json. Behind RUN, --task.NAME and --data.NAME judge it in another way,
    such as --task.votes 10; these are the settings of its recipe, and --out says where the numbers go."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    out: Path | None = None
    """Folder for eval.json and files of results; RUN if not given."""
