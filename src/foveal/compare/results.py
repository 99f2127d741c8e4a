"""Results as one JSON value, checked against a schema. The report is made of it alone."""

import json
import os
import platform
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import torch

from .._errors import InputError
from .._machine import processor
from ..analysis import chance_angles
from ..tasks import Headline
from ..training import Recipe, load_data, read_json, scalars
from ..training.checkpoint import replace_file
from ..training.reading import read_history, read_object
from ._diverged import without_diverged
from .look import drawn_truth, shown_images
from .plan import Plan
from .statistics import estimate, paired_difference, verdict

__all__ = ["check_results", "collect", "write_results"]

_NOT_METRICS = ("step", "parameters")
_LOOK = ("regions", "lambdas", "dim", "head_dim", "angles", "initial_angles", "neighbour_angles", "pictures", "drawn")
_BASELINES = {"softmax": "softmax attention", "none": "the network without attention"}
"""What comparisons are held against, in words."""


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
    schema = json.loads(files("foveal.compare").joinpath("results.schema.json").read_text())
    try:
        jsonschema.validate(results, schema)
    except jsonschema.ValidationError as error:
        raise InputError(f"these are no results of a comparison: {error.json_path}: {error.message}") from error
    return results


def collect(folder: Path) -> dict[str, Any]:
    """The results of a finished comparison."""
    plan, diverged = without_diverged(Plan.from_dict(read_object(folder / "plan.json")), folder)
    bundle = load_data(plan.recipe.data)
    again = "remove {0}, and the same command makes it again"
    costs = read_object(folder / "costs.json", [arm.name for arm in plan.arms], again.format(folder / "costs.json"))
    runs = {arm.name: [folder / arm.name / f"seed-{seed}" for seed in plan.seeds] for arm in plan.arms}
    headline, model = plan.recipe.task.headline, plan.recipe.model
    metrics = {name: [read_object(run / "metrics.json", [headline.name], again.format(run)) for run in paths] for name, paths in runs.items()}
    judged = {name: [metric[headline.name] for metric in of_arm] for name, of_arm in metrics.items()}
    arms = []
    for arm in plan.arms:
        rival = model.rivals.get(arm.name)
        looks = [read_object(run / "look.json", _LOOK, again.format(run / "look.json")) for run in runs[arm.name]]
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
                **(_against(judged, arm.name, plan.baseline, headline) if arm.name != plan.baseline else {"difference": None, "verdict": None}),
                "rival": {"name": rival, **_against(judged, arm.name, rival, headline)} if rival in judged else None,
                "curves": [_history(run / "history.jsonl", headline) for run in runs[arm.name]],
                "regions": _mean_regions([look["regions"] for look in looks]),
                "lambdas": [look["lambdas"] for look in looks],
                "angles": _angles(looks),
                "neighbour_angles": [row for look in looks for row in look["neighbour_angles"]],
                "pictures": looks[0]["pictures"],
                "drawn": looks[0]["drawn"],
            }
        )
    chance = plan.recipe.task.chance(bundle)
    return {
        "format": 2,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(terse=True),
            "device": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu",
        },
        "versions": {name: version(name) for name in ("foveal", "torch", "timm", "accelerate")},
        "plan": plan.to_dict(),
        "task": {"classes": bundle.classes, "train_images": len(bundle.train), "test_images": len(bundle.test), "notes": [*bundle.notes, *diverged]},
        "metric": {**asdict(headline), "chance": chance},
        "about_model": model.about,
        "images": shown_images(plan.recipe, bundle),
        "drawn": drawn_truth(plan.recipe, bundle),
        "resolution": read_json(folder / "resolution.json") if (folder / "resolution.json").exists() else [],
        "arms": arms,
        "verdict": _words(arms, len(plan.seeds), headline, chance, plan.baseline),
    }


def _against(judged: dict[str, list[float]], name: str, other: str, headline: Headline) -> dict[str, Any]:
    difference = paired_difference(judged[name], judged[other])
    return {
        "difference": asdict(difference) | {"by_seed": [a - b for a, b in zip(judged[name], judged[other], strict=True)]},
        "verdict": verdict(difference, larger_is_better=headline.larger_is_better),
    }


def _words(arms: list[dict[str, Any]], seeds: int, headline: Headline, chance: float | None, baseline: str) -> dict[str, Any]:
    """The verdict, for somebody who reads nothing else."""
    compared = [arm for arm in arms if arm["difference"]]
    plain = _BASELINES.get(baseline, baseline)
    if not compared:
        return {"headline": f"Only {plain} was trained, so there is nothing to compare it with.", "lines": [], "resolution": None}
    other = baseline if baseline == "softmax" else plain
    lines = [{"arm": arm["name"], "text": _line(f"{arm['name']}:", other, arm, headline)} for arm in compared]
    for arm in compared:
        if arm["rival"]:
            against = f"{arm['name']} against {arm['rival']['name']}, which has as many parameters:"
            lines.append({"arm": arm["name"], "text": _line(against, arm["rival"]["name"], arm["rival"], headline)})
    if seeds < 2:
        return {
            "headline": "One seed shows nothing: a second run of the same attention may differ as much. Take at least three.",
            "lines": lines,
            "resolution": None,
        }
    kinds = [arm["verdict"] for arm in compared]
    count = {kind: kinds.count(kind) for kind in ("better", "worse", "no difference shown")}
    if count["no difference shown"] == len(compared):
        words = f"No difference from {plain} was shown, for any attention compared."
    else:
        parts = [(count["better"], "better"), (count["worse"], "worse")]
        found = " and ".join(f"{number} did {word}" for number, word in parts if number)
        rest = count["no difference shown"]
        words = f"Of {len(compared)} attentions compared with {other}, {found}" + (f"; for {rest} no difference was shown." if rest else ".")
    if chance is not None and headline.larger_is_better and max(arm["metrics"][headline.name]["mean"] for arm in arms) < 1.5 * chance:
        words = "No attention learned much more than guessing, so this says nothing about them. Train longer."
    halves = sorted((arm["difference"]["high"] - arm["difference"]["low"]) / 2 for arm in compared)
    return {"headline": words, "lines": lines, "resolution": halves[len(halves) // 2]}


def _line(subject: str, other: str, compared: dict[str, Any], headline: Headline) -> str:
    difference, shown = compared["difference"], compared["verdict"]
    points = f"{_signed(difference['mean'], headline)} {headline.step}"
    if difference["low"] is None:
        return f"{subject} {points} from one seed, which shows nothing."
    interval = f"95 % interval {_signed(difference['low'], headline)} to {_signed(difference['high'], headline)}"
    if shown != "no difference shown":
        return f"{subject} {shown} than {other} by {_signed(abs(difference['mean']), headline)[1:]} {headline.step} ({interval})."
    line = f"{subject} no difference shown ({points}, {interval}, which holds zero)"
    by_seed = difference["by_seed"]
    if all(value < 0 for value in by_seed) or all(value > 0 for value in by_seed):
        side = "below" if by_seed[0] < 0 else "above"
        return f"{line}, though all {len(by_seed)} seeds were {side} {other}; more seeds would tell."
    return f"{line}."


def _signed(value: float, headline: Headline) -> str:
    """As the headline is shown, with a real minus sign."""
    return f"{headline.scale * value:+.{headline.decimals}f}".replace("-", "−")


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
    if not looks[0]["angles"]:
        return None
    dim, space = looks[0]["head_dim"], looks[0]["dim"]
    smallest, mean = chance_angles(space, dim)
    return {
        "trained": [row for look in looks for row in look["angles"]],
        "initial": [row for look in looks for row in look["initial_angles"]],
        "chance": {"smallest": smallest, "mean": mean, "dim": dim, "space": space},
    }


def _history(path: Path, headline: Headline) -> list[dict[str, Any]]:
    entries = read_history(path, (f"val_{headline.name}", "train_loss"))
    recipe = Recipe.from_dict(read_object(path.with_name("recipe.json")))
    due = [step for step in range(1, recipe.steps + 1) if step % recipe.eval_every == 0 or step == recipe.steps]
    if [entry["step"] for entry in entries] != due:
        raise InputError(f"{path} has not an entry for each evaluation, which were at {due}; remove {path.parent}, and the same command trains that run again")
    return [{"step": entry["step"], "value": entry[f"val_{headline.name}"], "train_loss": entry["train_loss"]} for entry in entries]
