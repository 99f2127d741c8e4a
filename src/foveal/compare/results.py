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
from ..training import load_data, read_json, write_json
from .plan import BASELINE, Plan
from .statistics import Estimate, Verdict, estimate, paired_difference, verdict

__all__ = ["check_results", "collect", "write_results"]

_METRICS = ("accuracy", "class_accuracy", "loss")


def write_results(folder: Path) -> Path:
    """Collect, check and write ``results.json``."""
    path = folder / "results.json"
    write_json(path, check_results(collect(folder)))
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
    baseline = [metric["accuracy"] for metric in metrics[BASELINE]]
    dial = SIZES[plan.recipe.model.size]
    arms = []
    for arm in plan.arms:
        accuracies = [metric["accuracy"] for metric in metrics[arm.name]]
        difference = None if arm.name == BASELINE else paired_difference(accuracies, baseline)
        looks = [read_json(run / "look.json") for run in runs[arm.name]]
        arms.append(
            {
                "name": arm.name,
                "about": arm.about,
                **costs[arm.name],
                **{name: {"by_seed": [m[name] for m in metrics[arm.name]], **asdict(estimate([m[name] for m in metrics[arm.name]]))} for name in _METRICS},
                "difference": None if difference is None else asdict(difference),
                "verdict": None if difference is None else verdict(difference),
                "curves": [_history(run / "history.jsonl") for run in runs[arm.name]],
                "regions": _mean_regions([look["regions"] for look in looks]),
                "lambdas": [look["lambdas"] for look in looks],
                "angles": _angles(looks, dial.dim),
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
        "arms": arms,
        "verdict": _words([(arm["name"], arm["difference"], arm["verdict"]) for arm in arms if arm["difference"]], len(plan.seeds)),
    }


def _words(compared: list[tuple[str, dict[str, Any], Verdict]], seeds: int) -> dict[str, Any]:
    """The verdict, for somebody who reads nothing else."""
    if not compared:
        return {"headline": "Only softmax attention was trained, so there is nothing to compare it with.", "lines": [], "resolution": None}
    lines = [_line(name, Estimate(**difference), shown) for name, difference, shown in compared]
    if seeds < 2:
        return {
            "headline": "One seed shows nothing: a second run of the same attention may differ as much. Take at least three.",
            "lines": lines,
            "resolution": None,
        }
    kinds = [shown for _, _, shown in compared]
    count = {kind: kinds.count(kind) for kind in ("better", "worse", "no difference shown")}
    if count["no difference shown"] == len(compared):
        headline = "No difference from softmax attention was shown, for any attention compared."
    else:
        parts = [(count["better"], "better"), (count["worse"], "worse")]
        found = " and ".join(f"{number} did {word}" for number, word in parts if number)
        rest = count["no difference shown"]
        headline = f"Of {len(compared)} attentions compared with softmax, {found}" + (f"; for {rest} no difference was shown." if rest else ".")
    halves = sorted((d["high"] - d["low"]) / 2 for _, d, _ in compared)
    return {"headline": headline, "lines": lines, "resolution": halves[len(halves) // 2]}


def _line(name: str, difference: Estimate, shown: Verdict) -> str:
    points = f"{100 * difference.mean:+.1f} points"
    if difference.low is None or difference.high is None:
        return f"{name}: {points} from one seed, which shows nothing."
    interval = f"95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    if shown == "no difference shown":
        return f"{name}: no difference shown ({points}, {interval}, which holds zero)."
    return f"{name}: {shown} than softmax by {abs(100 * difference.mean):.1f} points ({interval})."


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
