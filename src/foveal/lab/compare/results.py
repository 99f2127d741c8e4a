"""Results as one JSON value, checked against a schema. The report is made of it alone."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import torch

from ..._errors import InputError
from ..._machine import processor
from ..._renamed import renamed_keys
from ...analysis import chance_angles
from ..tasks import PrimaryMetric
from ..training import Recipe, load_data, scalars
from ..training.checkpoint import replace_file
from ..training.reading import Damaged, read_history, read_object
from ._diverged import without_diverged
from .judging import Judged, judge, rates_of
from .look import drawn_truth, shown_images
from .looks import read_looks, seeds_judged
from .plan import Plan
from .rates import rate_notes
from .resolution import read_points
from .sampling import Sampling
from .statistics import estimate
from .tuning import read_tuned, tuning_notes
from .words import verdict_words

__all__ = ["check_results", "collect", "write_results"]

_NOT_METRICS = ("step", "parameters")
_LISTS = ("regions", "angles", "initial_angles", "neighbor_angles", "pictures", "drawn")
_LOOK = ("regions", "lambdas", "dim", "head_dim", "angles", "initial_angles", "neighbor_angles", "pictures", "drawn")


def write_results(folder: Path) -> Path:
    """Collect, check and write ``results.json``."""
    path = folder / "results.json"
    replace_file(path, json.dumps(check_results(collect(folder))).encode())
    return path


def check_results(results: Any) -> dict[str, Any]:
    """The results, if they are what the schema says.

    Raises:
        ValueError: they are not; the message names the place.
    """
    schema = json.loads(files("foveal.lab.compare").joinpath("results.schema.json").read_text())
    try:
        jsonschema.validate(results, schema)
    except jsonschema.ValidationError as error:
        raise InputError(f"these are no results of a comparison: {error.json_path}: {error.message}") from error
    return results


def collect(folder: Path) -> dict[str, Any]:
    """The results of a finished comparison."""
    plan = Plan.from_dict(read_object(folder / "plan.json"))
    seeds, looked_at, rates = seeds_judged(plan, folder), read_looks(plan, folder), rates_of(plan)
    plan, diverged = without_diverged(replace(plan, seeds=plan.seeds[:seeds]), folder)
    bundle = load_data(plan.recipe.data)
    again = "remove {0}, and the same command makes it again"
    costs = read_object(folder / "costs.json", [arm.name for arm in plan.arms], again.format(folder / "costs.json"))
    runs = {arm.name: [folder / arm.name / f"seed-{seed}" for seed in plan.seeds] for arm in plan.arms}
    headline, model = plan.recipe.task.primary_metric, plan.recipe.model
    _check(costs, folder / "costs.json", {arm.name: dict for arm in plan.arms})
    metrics = {name: [read_object(run / "metrics.json", [headline.name], again.format(run)) for run in paths] for name, paths in runs.items()}
    for name, paths in runs.items():
        for run, metric in zip(paths, metrics[name], strict=True):
            _check(metric, run / "metrics.json", dict.fromkeys((headline.name, *scalars(metrics[name][0])), (int, float)), run)
    judged = judge(plan, folder)
    compared = _comparisons(judged)
    arms = []
    for arm in plan.arms:
        looks = [_read_look(run / "look.json", again) for run in runs[arm.name]]
        for run, look in zip(runs[arm.name], looks, strict=True):
            _check(look, run / "look.json", dict.fromkeys(_LISTS, list))
        names = [name for name in scalars(metrics[arm.name][0]) if name not in _NOT_METRICS]
        per_class = [metric["per_class"] for metric in metrics[arm.name] if "per_class" in metric]
        arms.append(
            {
                "name": arm.name,
                "about": arm.about,
                **costs[arm.name],
                "metrics": {
                    name: {"by_seed": [m[name] for m in metrics[arm.name]], **asdict(estimate([m[name] for m in metrics[arm.name]]))} for name in names
                },
                "per_class": _mean_classes(per_class),
                "curves": [_history(run / "history.jsonl", headline) for run in runs[arm.name]],
                "regions": _mean_regions([look["regions"] for look in looks]),
                "lambdas": [look["lambdas"] for look in looks],
                "angles": _angles(looks),
                "neighbor_angles": [row for look in looks for row in look["neighbor_angles"]],
                "pictures": looks[0]["pictures"],
                "drawn": looks[0]["drawn"],
            }
        )
    chance = plan.recipe.task.chance(bundle)
    return {
        "format": 4,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(terse=True),
            "device": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu",
        },
        "versions": {name: version(name) for name in ("foveal", "torch", "timm", "accelerate")},
        "plan": plan.to_dict(),
        "command": _command(folder),
        "power": _foretold(folder),
        "task": {
            "classes": bundle.classes,
            "train_images": len(bundle.train),
            "test_images": len(bundle.test),
            "sample": plan.recipe.task.sample_name,
            "notes": [*bundle.notes, *rate_notes(plan), *tuning_notes(plan), *diverged],
        },
        "metric": {**asdict(headline), "chance": chance},
        "about_model": model.about,
        "images": shown_images(plan.recipe, bundle),
        "drawn": drawn_truth(plan.recipe, bundle),
        "resolution": read_points(folder / "resolution.json") if (folder / "resolution.json").exists() else [],
        "arms": arms,
        "comparisons": compared,
        "verdict": verdict_words(compared, arms, len(plan.seeds), headline, chance, judged.margin),
        "tuning": read_tuned(plan, folder),
        "statistics": {
            **asdict(judged.pool),
            "margin": judged.margin,
            "rates": asdict(rates),
            "looks": [asdict(look) for look in looked_at],
            "data": "of each seed" if plan.data_differ else "of all seeds",
            "samples": judged.samplings is not None,
        },
    }


def _read_look(path: Path, again: str) -> dict[str, Any]:
    look = renamed_keys(str(path), read_object(path, (), again.format(path)), {"neighbour_angles": "neighbor_angles"})
    if missing := [name for name in _LOOK if name not in look]:
        raise Damaged(f"{path} is damaged: it has no {', '.join(missing)}; {again.format(path)}")
    return look


def _check(values: dict[str, Any], path: Path, kinds: dict[str, Any], remove: Path | None = None) -> None:
    """Refuse a file of ours whose fields are others than what was written there."""
    for name, kind in kinds.items():
        value = values.get(name)
        rows = value if kind is list and isinstance(value, list) else []
        if not isinstance(value, kind) or isinstance(value, bool) or not all(isinstance(row, dict) for row in rows):
            raise Damaged(f"{path} is damaged: {name} is {repr(value)[:80]}; remove {remove or path}, and the same command makes it again")


def _comparisons(judged: Judged) -> list[dict[str, Any]]:
    """Everything that the report speaks of, declared at once, the primary one first."""
    samplings: Sequence[Sampling | None] = judged.samplings or [None] * len(judged.pairs)
    return [
        {
            "arm": pair[0],
            "against": pair[1],
            "difference": asdict(one.difference) | {"by_seed": list(one.by_seed)},
            "paired": asdict(one.paired),
            "equality": asdict(one.equality),
            "sampling": None if sampling is None else asdict(sampling),
            "verdict": one.verdict,
            "likely": None if one.likely is None else asdict(one.likely),
            "seeds_to_settle": one.seeds_to_settle,
        }
        for pair, one, sampling in zip(judged.pairs, judged.comparisons, samplings, strict=True)
    ]


def _foretold(folder: Path) -> list[str]:
    """What was said of the comparison's power before it ran; nothing of before that was said."""
    path = folder / "power.json"
    if not path.exists():
        return []
    remedy = f"remove {path}"
    lines = read_object(path, ("lines",), remedy)["lines"]
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Damaged(f"{path} is damaged: lines is {repr(lines)[:80]}; {remedy}")
    return lines


def _command(folder: Path) -> str | None:
    """What makes the comparison again; None where it was made from Python."""
    path = folder / "command.json"
    return str(read_object(path, ("command",), f"remove {path}")["command"]) if path.exists() else None


def _mean_classes(seeds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float | None]]:
    """Each class's numbers, averaged over seeds; none where a class was never there."""
    out: dict[str, dict[str, float | None]] = {}
    for label, numbers in seeds[0].items() if seeds else ():
        out[label] = {}
        for name in numbers:
            there = [seed[label][name] for seed in seeds if seed[label][name] is not None]
            out[label][name] = sum(there) / len(there) if there else None
    return out


def _mean_regions(looks: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Over layers and seeds: the mean by map and region, and each seed's, for the spread."""
    by_key: dict[tuple[str, str], list[float]] = defaultdict(list)
    chances: dict[str, float] = {}
    for rows in looks:
        here: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            here[row["map"], row["region"]].append(row["mass"])
            chances[row["region"]] = row["chance"]
        for key, masses in here.items():
            by_key[key].append(sum(masses) / len(masses))
    return [{"map": name, "region": region, "by_seed": masses, "chance": chances[region]} for (name, region), masses in by_key.items()]


def _angles(looks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Trained, at the start, and by chance; all in degrees."""
    if not all(look["angles"] and look["initial_angles"] for look in looks):
        return None
    dim, space = looks[0]["head_dim"], looks[0]["dim"]
    smallest, mean = chance_angles(space, dim)
    by_seed = {key: [_mean([row["smallest"] for row in look[rows]]) for look in looks] for key, rows in (("initial", "initial_angles"), ("trained", "angles"))}
    return {
        "by_seed": by_seed,
        "trained": [row for look in looks for row in look["angles"]],
        "initial": [row for look in looks for row in look["initial_angles"]],
        "chance": {"smallest": smallest, "mean": mean, "dim": dim, "space": space},
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _history(path: Path, headline: PrimaryMetric) -> list[dict[str, Any]]:
    entries = read_history(path, (f"val_{headline.name}", "train_loss"))
    recipe = Recipe.from_dict(read_object(path.with_name("recipe.json")))
    due = [step for step in range(1, recipe.steps + 1) if step % recipe.eval_every == 0 or step == recipe.steps]
    if [entry["step"] for entry in entries] != due:
        raise InputError(f"{path} has not an entry for each evaluation, which were at {due}; remove {path.parent}, and the same command trains that run again")
    return [{"step": entry["step"], "value": entry[f"val_{headline.name}"], "train_loss": entry["train_loss"]} for entry in entries]
