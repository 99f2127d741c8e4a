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
from ..analysis import chance_angles
from ..models.vit import SIZES
from ..training import load_data, read_json
from ..training.checkpoint import replace_file
from .look import shown_images
from .plan import BASELINE, RIVALS, Plan
from .statistics import estimate, paired_difference, verdict

__all__ = ["check_results", "collect", "write_results"]

_METRICS = ("accuracy", "class_accuracy", "loss")


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
    plan = Plan.from_dict(read_json(folder / "plan.json"))
    bundle = load_data(plan.recipe.data)
    costs = read_json(folder / "costs.json")
    runs = {arm.name: [folder / arm.name / f"seed-{seed}" for seed in plan.seeds] for arm in plan.arms}
    metrics = {name: [read_json(run / "metrics.json") for run in paths] for name, paths in runs.items()}
    accuracy = {name: [metric["accuracy"] for metric in of_arm] for name, of_arm in metrics.items()}
    dial = SIZES[plan.recipe.model.size]
    arms = []
    for arm in plan.arms:
        rival = RIVALS.get(arm.name)
        looks = [read_json(run / "look.json") for run in runs[arm.name]]
        arms.append(
            {
                "name": arm.name,
                "about": arm.about,
                **costs[arm.name],
                **{name: {"by_seed": [m[name] for m in metrics[arm.name]], **asdict(estimate([m[name] for m in metrics[arm.name]]))} for name in _METRICS},
                **(_against(accuracy, arm.name, BASELINE) if arm.name != BASELINE else {"difference": None, "verdict": None}),
                "rival": {"name": rival, **_against(accuracy, arm.name, rival)} if rival in accuracy else None,
                "curves": [_history(run / "history.jsonl") for run in runs[arm.name]],
                "regions": _mean_regions([look["regions"] for look in looks]),
                "lambdas": [look["lambdas"] for look in looks],
                "angles": _angles(looks, dial.dim),
                "neighbour_angles": [row for look in looks for row in look["neighbour_angles"]],
                "pictures": looks[0]["pictures"],
            }
        )
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(terse=True),
            "device": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu",
        },
        "versions": {name: version(name) for name in ("foveal", "torch", "timm", "accelerate")},
        "plan": plan.to_dict(),
        "task": {"classes": bundle.classes, "train_images": len(bundle.train), "test_images": len(bundle.test), "notes": bundle.notes},
        "images": shown_images(bundle),
        "arms": arms,
        "verdict": _words(arms, len(plan.seeds), 1 / len(bundle.classes)),
    }


def _against(accuracy: dict[str, list[float]], name: str, other: str) -> dict[str, Any]:
    difference = paired_difference(accuracy[name], accuracy[other])
    return {
        "difference": asdict(difference) | {"by_seed": [a - b for a, b in zip(accuracy[name], accuracy[other], strict=True)]},
        "verdict": verdict(difference),
    }


def _words(arms: list[dict[str, Any]], seeds: int, chance: float) -> dict[str, Any]:
    """The verdict, for somebody who reads nothing else."""
    compared = [arm for arm in arms if arm["difference"]]
    if not compared:
        return {"headline": "Only softmax attention was trained, so there is nothing to compare it with.", "lines": [], "resolution": None}
    lines = [{"arm": arm["name"], "text": _line(f"{arm['name']}:", "softmax", arm)} for arm in compared]
    for arm in compared:
        if arm["rival"]:
            against = f"{arm['name']} against {arm['rival']['name']}, which has as many parameters:"
            lines.append({"arm": arm["name"], "text": _line(against, arm["rival"]["name"], arm["rival"])})
    if seeds < 2:
        return {
            "headline": "One seed shows nothing: a second run of the same attention may differ as much. Take at least three.",
            "lines": lines,
            "resolution": None,
        }
    kinds = [arm["verdict"] for arm in compared]
    count = {kind: kinds.count(kind) for kind in ("better", "worse", "no difference shown")}
    if count["no difference shown"] == len(compared):
        headline = "No difference from softmax attention was shown, for any attention compared."
    else:
        parts = [(count["better"], "better"), (count["worse"], "worse")]
        found = " and ".join(f"{number} did {word}" for number, word in parts if number)
        rest = count["no difference shown"]
        headline = f"Of {len(compared)} attentions compared with softmax, {found}" + (f"; for {rest} no difference was shown." if rest else ".")
    if max(arm["accuracy"]["mean"] for arm in arms) < 1.5 * chance:
        headline = "No attention learned much more than guessing, so this says nothing about them. Train longer."
    halves = sorted((arm["difference"]["high"] - arm["difference"]["low"]) / 2 for arm in compared)
    return {"headline": headline, "lines": lines, "resolution": halves[len(halves) // 2]}


def _line(subject: str, other: str, compared: dict[str, Any]) -> str:
    difference, shown = compared["difference"], compared["verdict"]
    points = f"{_signed(difference['mean'])} points"
    if difference["low"] is None:
        return f"{subject} {points} from one seed, which shows nothing."
    interval = f"95 % interval {_signed(difference['low'])} to {_signed(difference['high'])}"
    if shown != "no difference shown":
        return f"{subject} {shown} than {other} by {abs(100 * difference['mean']):.1f} points ({interval})."
    line = f"{subject} no difference shown ({points}, {interval}, which holds zero)"
    by_seed = difference["by_seed"]
    if all(value < 0 for value in by_seed) or all(value > 0 for value in by_seed):
        side = "below" if by_seed[0] < 0 else "above"
        return f"{line}, though all {len(by_seed)} seeds were {side} {other}; more seeds would tell."
    return f"{line}."


def _signed(value: float) -> str:
    """In points, with a real minus sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


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


def _angles(looks: list[dict[str, Any]], space: int) -> dict[str, Any] | None:
    """Trained, at the start, and by chance; all in degrees."""
    if not looks[0]["angles"]:
        return None
    dim = looks[0]["head_dim"]
    smallest, mean = chance_angles(space, dim)
    return {
        "trained": [row for look in looks for row in look["angles"]],
        "initial": [row for look in looks for row in look["initial_angles"]],
        "chance": {"smallest": smallest, "mean": mean, "dim": dim, "space": space},
    }


def _history(path: Path) -> list[dict[str, Any]]:
    return [{key: entry[key] for key in ("step", "val_accuracy", "train_loss")} for entry in map(json.loads, path.read_text().splitlines())]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
