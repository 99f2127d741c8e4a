"""What a plan can see, said before anything runs: from residuals that a comparison of this kind left, or from an assumption that is stated."""

import json
from importlib.resources import files
from typing import Any

from scipy.special import stdtr

from ..training import load_data
from .judging import rates_of
from .plan import Plan
from .settling import MOST_SEEDS, Noise, chances, seeds_to_settle, smallest_seen
from .statistics import RATE
from .together import bounds, shares

__all__ = ["expected_spread", "power_lines", "stored_residuals"]

_ASSUMED = 1.0
"""Of a percentage, in points."""
_DISAGREEMENT = 0.1
"""Of two variants, as a share of the test images."""


def stored_residuals() -> dict[str, Any]:
    """Residuals of variant + seed that a finished comparison left, with what they are of; ``python -m benchmarks.residuals`` writes them."""
    return dict(json.loads(files("foveal.lab.compare").joinpath("residuals.json").read_text()))


def expected_spread(plan: Plan) -> tuple[float, str] | None:
    """The residual spread that is to be expected, in the unit of the metric, and where that is from; None where nobody knows."""
    headline, stored = plan.recipe.task.primary_metric, stored_residuals()
    if (type(plan.recipe.data).__name__, headline.name) == (stored["data"], stored["metric"]):
        return float(stored["deviation"]), f"of {stored['about']}"
    if headline.unit != "%":
        return None
    images, assumed = len(load_data(plan.recipe.data).test), _ASSUMED / headline.scale
    # of two variants that differ in so many answers the difference varies by the root of their number; each has half of that variance
    few = (_DISAGREEMENT / images / 2) ** 0.5
    if few <= assumed:
        return assumed, "an assumption"
    return few, f"an assumption: {images} test {plan.recipe.task.sample_name}s, of which two variants answer one in {1 / _DISAGREEMENT:.0f} differently"


def power_lines(plan: Plan) -> list[str]:
    """One line for each look, or for the plan; none where there is one seed or nothing to compare."""
    pairs, headline = plan.pairs(), plan.recipe.task.primary_metric
    looks = [seeds for seeds in plan.looks or (len(plan.seeds),) if seeds > 1]
    if not pairs or not looks:
        return []
    known = expected_spread(plan)
    spread, source = known or (1.0, "")
    margin = plan.margin_of(0.0) if plan.margin is not None or headline.unit == "%" else None

    def shown(value: float) -> str:
        return f"{headline.scale * value:.{headline.decimals + 1}f} {headline.step}" if known else f"{value:.1f} × that spread"

    what = shown(spread) + f" ({source})" if known else f"unknown in {headline.step}"
    lines = [f"primary comparison: {pairs[0][0]} − {pairs[0][1]}; {len(pairs) - 1} more; spread from seed to seed that is expected: {what}"]
    for seeds in looks:
        noise = _noise(plan, pairs, spread, seeds, margin if known and margin is not None else 0.0)
        line = f"  with {seeds} seeds differences below {shown(smallest_seen(noise, seeds))} will mostly be missed"
        if known and margin is not None:
            seen = chances(noise, margin, (seeds,)).above[0]
            equal = chances(noise, 0.0, (seeds,)).equal[0]
            line += f"; one of {shown(margin)} is seen in {seen:.0%} of comparisons, and equality within it in {equal:.0%}"
            enough = seeds_to_settle(noise, 0.0)
            line += f" ({enough or f'more than {MOST_SEEDS}'} seeds show equality in 80%)" if seeds == looks[-1] else ""
        lines.append(line)
    if plan.looks:
        lines.append(
            f"  ends at the look that settles the primary comparison, each at p < {rates_of(plan).difference:.3f}, which makes {RATE:.0%} of all looks together"
        )
    return lines


def _noise(plan: Plan, pairs: list[tuple[str, str]], spread: float, seeds: int, margin: float) -> Noise:
    a_seed, rates = len(plan.arms) - 1, rates_of(plan)
    degrees = a_seed * (seeds - 1)
    bound = bounds(pairs, [True] * len(pairs), degrees, seeds - 1, rates.difference)[0]
    return Noise(2**0.5 * spread, a_seed, 2 * float(stdtr(degrees, -bound)), rates.equal * shares(len(pairs))[0], margin)
