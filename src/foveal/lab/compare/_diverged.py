"""Runs of a comparison whose weights became no numbers: an outcome to be told, and nothing that can be averaged."""

import math
from dataclasses import replace
from pathlib import Path

from ..._errors import InputError
from ..training.reading import read_object
from .plan import Plan

__all__ = ["DIVERGED", "diverged_runs", "without_diverged"]

DIVERGED = "diverged.json"
"""In the folder of a run, in the place of its results."""


def diverged_runs(plan: Plan, folder: Path) -> dict[tuple[str, int], str]:
    """By arm and seed, what its run said when it stopped."""
    found = {}
    for arm in plan.arms:
        for seed in plan.seeds:
            said = _said(plan, folder / arm.name / f"seed-{seed}")
            if said:
                found[arm.name, seed] = said
    return found


def without_diverged(plan: Plan, folder: Path) -> tuple[Plan, list[str]]:
    """The plan without arms of which a run diverged, and a note on each such run.

    Raises:
        ValueError: it is the baseline's, so nothing can be compared.
    """
    found = diverged_runs(plan, folder)
    notes = [f"{name} diverged with seed {seed} and is left out: {said}" for (name, seed), said in found.items()]
    gone = {name for name, _ in found}
    if plan.baseline in gone:
        raise InputError(f"there is nothing to compare with, as the baseline is gone: {'; '.join(notes)}; choose another folder with --out")
    return replace(plan, arms=tuple(arm for arm in plan.arms if arm.name not in gone)), notes


def _said(plan: Plan, run: Path) -> str:
    if (run / DIVERGED).exists():
        return str(read_object(run / DIVERGED, ("message",), f"remove {run}, and the same command trains it again")["message"])
    if not (run / "metrics.json").exists():
        return ""
    # of before such numbers were refused
    metrics = read_object(run / "metrics.json", (), f"remove {run}, and the same command trains it again")
    names = [name for name in (plan.recipe.task.primary_metric.name, "loss") if name in metrics]
    wrong = [name for name in names if isinstance(metrics[name], float) and not math.isfinite(metrics[name])]
    return f"its {wrong[0]} is {metrics[wrong[0]]}" if wrong else ""
