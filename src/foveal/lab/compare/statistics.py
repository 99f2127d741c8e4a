"""Intervals over seeds, what several comparisons of one report show together, and the verdict on each.

Every variant is run with the same seeds, so that a value is variant + seed + residual. The residual's spread is pooled over the variants that allow it:
with three seeds a spread of one pair alone is below half of the true one in a fifth of all comparisons, and makes verdicts of luck. The intervals of one
report hold together: where nothing differs, one report in twenty calls anything better or worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from .pooling import Pool, pool_residuals
from .sampling import Sampling
from .settling import Noise, seeds_to_settle
from .together import bounds, shares

__all__ = ["RATE", "Comparison", "Estimate", "Pool", "Rates", "Verdict", "compare_pairs", "estimate", "paired_difference", "pool_residuals", "verdict"]

Verdict = Literal["better", "worse", "equal", "not settled", "one seed"]
RATE = 0.05
"""Share of reports without any difference that may call anything better or worse."""


@dataclass(frozen=True)
class Rates:
    """Of errors, all comparisons of a report together; lower than these at each look where there are several."""

    difference: float = RATE
    """Anything is called better or worse where nothing differs."""
    equal: float = RATE
    """Anything is called equal that differs by the margin or more."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with an interval by Student's t; no interval from one seed."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Likely:
    """How probable it is, by these seeds alone and before any correction, that the true difference is …"""

    better: float
    """… to the better by the margin or more."""
    equal: float
    """… below the margin."""
    worse: float
    """… to the worse by the margin or more."""


@dataclass(frozen=True)
class Comparison:
    """One variant against another over the same seeds."""

    difference: Estimate
    """The interval holds together with those of the report's other comparisons, in 95 of 100 reports; it includes test samples that seeds have in common."""
    by_seed: tuple[float, ...]
    paired: Estimate
    """The plain 95 % interval of the paired t test: this pair's spread alone, no other comparison considered, the test samples taken as given."""
    equality: Estimate
    """The interval that has to lie within the margin for the two one-sided tests to call the variants equal (Schuirmann 1987)."""
    verdict: Verdict
    likely: Likely | None
    seeds_to_settle: int | None
    """Where it is not settled: seeds that would settle it in four of five cases, were it as large as it looks; None where a hundred would not."""


def estimate(values: Sequence[float], *, comparisons: int = 1) -> Estimate:
    """Mean and interval of values that are independent but for their mean.

    Args:
        values: one a seed.
        comparisons: intervals that shall hold together in 95 of 100 cases (Bonferroni).
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = _above(RATE / 2 / comparisons, len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Of runs that differ in the attention alone: the same seed decides order, shared weights and data of both."""
    return estimate(_differences(values, baseline))


def compare_pairs(
    values: Mapping[str, Sequence[float]],
    pairs: Sequence[tuple[str, str]],
    *,
    margin: float,
    larger_is_better: bool = True,
    rates: Rates = Rates(),
    samplings: Sequence[Sampling] | None = None,
    grain: float = 0.0,
) -> tuple[Pool, list[Comparison]]:
    """All comparisons that one report declares.

    Args:
        values: by variant, one a seed, the seeds in the same order.
        pairs: (variant, what it is held against), all that the report will speak of; the first is the primary one.
        margin: differences smaller than this do not matter.
        larger_is_better: of the values.
        rates: of errors, over all comparisons.
        samplings: what another draw of test samples would have changed, for each pair, where that is known.
        grain: the step that values come in, as one test image of an accuracy. A spread below that of rounding to it is none that was seen: two seeds that
            differ by the same image or two would else pass for certainty.

    Returns:
        The pooled spread, and a comparison for each pair.
    """
    pool = pool_residuals(values)
    seeds = len(next(iter(values.values())))
    pooled = [pool.deviation is not None and set(pair) <= set(pool.members) for pair in pairs]
    found: list[Comparison] = []
    ends = bounds(pairs, pooled, pool.degrees, seeds - 1, rates.difference) if pairs and seeds > 1 else []
    for number, pair in enumerate(pairs):
        by_seed = _differences(values[pair[0]], values[pair[1]])
        paired = estimate(by_seed)
        if seeds < 2:
            found.append(Comparison(paired, tuple(by_seed), paired, paired, "one seed", None, None))
            continue
        shared = samplings[number].shared if samplings else 0.0
        deviation, a_seed = (2**0.5 * (pool.deviation or 0.0), len(pool.members) - 1) if pooled[number] else (float(np.std(by_seed, ddof=1)), 1)
        # each of the two values is rounded, with a variance of grain² / 12
        deviation = max(deviation, grain / 6**0.5)
        degrees = a_seed * (seeds - 1)
        noise = Noise(deviation, a_seed, 2 * float(stdtr(degrees, -ends[number])), rates.equal * shares(len(pairs))[number], margin, shared)
        found.append(_judged(by_seed, paired, noise, ends[number], degrees, larger_is_better))
    return pool, found


def _judged(by_seed: list[float], paired: Estimate, noise: Noise, end: float, degrees: int, larger_is_better: bool) -> Comparison:
    mean, error = paired.mean, (noise.deviation**2 / len(by_seed) + noise.shared**2) ** 0.5
    within = _above(noise.equal_rate, degrees) * error
    difference, equality = Estimate(mean, mean - end * error, mean + end * error), Estimate(mean, mean - within, mean + within)
    shown = verdict(difference, larger_is_better=larger_is_better, equality=equality, margin=noise.margin)
    likely = _likely(mean, error, degrees, noise.margin, larger_is_better)
    more = seeds_to_settle(noise, mean) if shown == "not settled" else None
    return Comparison(difference, tuple(by_seed), paired, equality, shown, likely, more)


def verdict(difference: Estimate, *, larger_is_better: bool = True, equality: Estimate | None = None, margin: float = 0.0) -> Verdict:
    """What a difference shows. An interval that holds zero settles nothing by itself; what shows equality is one that lies within the margin."""
    if difference.low is None or difference.high is None:
        return "one seed"
    if difference.low > 0 or difference.high < 0:
        return "better" if (difference.mean > 0) is larger_is_better else "worse"
    if equality is not None and equality.low is not None and equality.high is not None and -margin < equality.low and equality.high < margin:
        return "equal"
    return "not settled"


def _likely(mean: float, error: float, degrees: int, margin: float, larger_is_better: bool) -> Likely | None:
    if not error:
        return None
    above, below = float(stdtr(degrees, (mean - margin) / error)), float(stdtr(degrees, (-margin - mean) / error))
    better, worse = (above, below) if larger_is_better else (below, above)
    return Likely(better, 1 - above - below, worse)


def _above(share: float, degrees: int) -> float:
    """What Student's t exceeds with that probability; the frozen functions of scipy.stats cost a hundred times as much a call."""
    return -float(stdtrit(degrees, share))


def _differences(values: Sequence[float], baseline: Sequence[float]) -> list[float]:
    assert len(values) == len(baseline), "paired runs have the same seeds"
    return [a - b for a, b in zip(values, baseline, strict=True)]
