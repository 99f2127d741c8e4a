"""What the runs of a plan show, from the numbers that they left."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..training import load_data
from ..training.reading import read_object
from ..training.samples import read_samples
from ._diverged import without_diverged
from .plan import Plan
from .sampling import Sampling, bootstrap
from .sequential import rate_of_a_look
from .statistics import RATE, Comparison, Pool, Rates, compare_pairs

__all__ = ["Judged", "judge", "rates_of"]


@dataclass(frozen=True)
class Judged:
    """Every declared comparison, the primary one first."""

    pairs: list[tuple[str, str]]
    comparisons: list[Comparison]
    pool: Pool
    samplings: list[Sampling] | None
    margin: float
    rates: Rates
    notes: list[str]


def rates_of(plan: Plan) -> Rates:
    """Of errors, at each look: all looks together err in one report of twenty."""
    # of equality each of the two tests has one side
    return Rates(rate_of_a_look(plan.looks, RATE), rate_of_a_look(plan.looks, 2 * RATE) / 2)


def judge(plan: Plan, folder: Path, seeds: int | None = None) -> Judged:
    """Judge the first so many seeds; all if None.

    Raises:
        ValueError: runs are not done, or their files are damaged.
    """
    plan, notes = without_diverged(replace(plan, seeds=plan.seeds[:seeds]), folder)
    headline, again = plan.recipe.task.primary_metric, "remove {0}, and the same command makes it again"
    runs = {arm.name: [folder / arm.name / f"seed-{seed}" for seed in plan.seeds] for arm in plan.arms}
    values = {
        name: [float(read_object(run / "metrics.json", [headline.name], again.format(run))[headline.name]) for run in paths] for name, paths in runs.items()
    }
    pairs = plan.pairs()
    samplings = bootstrap({name: [read_samples(run) for run in paths] for name, paths in runs.items()}, pairs)
    margin, rates = plan.margin_of(sum(values[plan.baseline]) / len(plan.seeds)), rates_of(plan)
    # an accuracy moves by one image
    grain = 1 / len(load_data(plan.recipe.data).test) if headline.name == "accuracy" else 0.0
    pool, found = compare_pairs(values, pairs, margin=margin, larger_is_better=headline.larger_is_better, rates=rates, samplings=samplings, grain=grain)
    return Judged(pairs, found, pool, samplings, margin, rates, notes)
