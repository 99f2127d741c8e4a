"""A learning rate for each variant: the same rates tried at full length, with seeds that are not judged, on validation."""

from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..training import load_data, write_json
from ..training.reading import Damaged, read_history, read_object
from ._diverged import DIVERGED
from .plan import TUNING_SEEDS, Plan
from .watch import Job

__all__ = ["chosen_rates", "read_tuned", "tuning_jobs", "tuning_notes", "write_tuned"]

_FILE = "tuned.json"


def tuning_jobs(plan: Plan, folder: Path) -> list[Job]:
    """A run for each variant, rate and seed."""
    return [
        Job(f"{arm.name} at {rate:g} seed {seed}", plan.run_recipe(arm, seed, rate), _run(folder, arm.name, rate, seed), looked_at=False)
        for seed in TUNING_SEEDS
        for arm in plan.arms
        for rate in plan.learning_rates
    ]


def tuning_notes(plan: Plan) -> list[str]:
    """What a reader must know of how rates were chosen; nothing where validation and test are apart."""
    bundle = load_data(plan.recipe.data)
    if not plan.learning_rates or bundle.test is not bundle.val:
        return []
    shared = "of which some judge other seeds" if plan.data_differ else "which also judge"
    return [
        f"there is no test split, so rates were chosen on validation images {shared}: all variants alike, but their numbers look better than they are; "
        "a test folder keeps them apart"
    ]


def write_tuned(plan: Plan, folder: Path) -> None:
    """Choose, and write ``tuned.json``: by variant the validation numbers of each rate by seed, None where a run diverged, and the rate of the best mean.

    Raises:
        ValueError: every rate of a variant diverged.
    """
    headline = plan.recipe.task.primary_metric
    sign = 1 if headline.larger_is_better else -1
    arms: dict[str, Any] = {}
    for arm in plan.arms:
        values = [[_value(plan, _run(folder, arm.name, rate, seed)) for seed in TUNING_SEEDS] for rate in plan.learning_rates]
        means = [
            sign * sum(row) / len(row) if (row := [value for value in seeds if value is not None]) and len(row) == len(seeds) else None for seeds in values
        ]
        known = [mean for mean in means if mean is not None]
        if not known:
            raise InputError(
                f"{arm.name} diverged at every rate, {', '.join(f'{rate:g}' for rate in plan.learning_rates)}; give a recipe with a lower --optim.lr"
            )
        arms[arm.name] = {"values": values, "chosen": plan.learning_rates[means.index(max(known))]}
    write_json(folder / _FILE, {"rates": list(plan.learning_rates), "seeds": list(TUNING_SEEDS), "arms": arms})


def read_tuned(plan: Plan, folder: Path) -> dict[str, Any] | None:
    """What was tried and chosen; None where all learn at the recipe's rate."""
    if not plan.learning_rates:
        return None
    names = [arm.name for arm in plan.arms]
    remedy = f"remove {folder / _FILE}, and the same command makes it again"
    tuned = read_object(folder / _FILE, ("rates", "seeds", "arms"), remedy)
    try:
        arms = {name: {"values": list(tuned["arms"][name]["values"]), "chosen": float(tuned["arms"][name]["chosen"])} for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{folder / _FILE} is damaged: {error!r}; {remedy}") from error
    return tuned | {"arms": arms}


def chosen_rates(plan: Plan, folder: Path) -> dict[str, float]:
    """By variant; empty where all learn at the recipe's rate."""
    tuned = read_tuned(plan, folder)
    return {name: float(found["chosen"]) for name, found in tuned["arms"].items()} if tuned else {}


def _run(folder: Path, arm: str, rate: float, seed: int) -> Path:
    return folder / arm / f"rate-{rate:g}" / f"seed-{seed}"


def _value(plan: Plan, run: Path) -> float | None:
    """The last validation of a run."""
    if (run / DIVERGED).exists():
        return None
    name = f"val_{plan.recipe.task.primary_metric.name}"
    return float(read_history(run / "history.jsonl", (name,))[-1][name])
