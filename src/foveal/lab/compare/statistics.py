"""Intervals over seeds, what several comparisons of one report show together, and the words for it.

Every variant is run with the same seeds, so that a value is variant + seed + residual. The residual's spread is pooled over the variants that allow it:
with three seeds a spread of one pair alone is below half of the true one in a fifth of all comparisons, and makes verdicts of luck. The intervals of one
report hold together (Bonferroni): where nothing differs, at most one report in twenty calls anything better or worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = ["Comparison", "Estimate", "Pool", "Verdict", "compare_pairs", "estimate", "paired_difference", "pool_residuals", "verdict"]

Verdict = Literal["better", "worse", "not settled", "one seed"]
_MOST_VARIANCE = 9.0
"""Of a variant's residuals against the median variant's, for its spread to be pooled with theirs."""
_UNSTEADY = 0.01
"""With two seeds a ratio of nine is common; there a spread is left out where chance makes one of the report's so large in one report of a hundred."""
_LIKELY = 0.1
"""Two-sided p of one comparison by itself, below which its direction is called probable where the report's intervals settle nothing."""
_POWER, _MOST_SEEDS = 0.8, 100


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with an interval by Student's t; no interval from one seed."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pool:
    """The residual spread that variants have in common."""

    deviation: float | None
    """Of the residuals; None where nothing could be pooled."""
    degrees: int
    """Of freedom."""
    members: list[str]
    left_out: list[str]
    """Variants whose residuals vary far more than the median variant's; their comparisons use their own spread."""


@dataclass(frozen=True)
class Comparison:
    """One variant against another over the same seeds."""

    difference: Estimate
    """The interval holds together with those of the report's other comparisons, in 95 of 100 reports."""
    by_seed: tuple[float, ...]
    paired: Estimate
    """The plain 95 % interval of the paired t test: this pair's spread alone, no other comparison considered."""
    verdict: Verdict
    leaning: Literal["better", "worse"] | None
    """Where it is not settled: what is probable, if anything."""
    seeds_to_settle: int | None
    """Where it is not settled and something is probable: seeds that would settle it in four of five cases, were it as large as it looks."""


def estimate(values: Sequence[float], *, comparisons: int = 1) -> Estimate:
    """Mean and interval of values that are independent but for their mean.

    Args:
        values: one a seed.
        comparisons: intervals that shall hold together in 95 of 100 cases (Bonferroni).
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = _quantile(len(values) - 1, comparisons) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Of runs that differ in the attention alone: the same seed decides order, shared weights and data of both."""
    return estimate(_differences(values, baseline))


def pool_residuals(values: Mapping[str, Sequence[float]]) -> Pool:
    """The residual spread of the two-way model variant + seed, over the variants whose spread allows it.

    Args:
        values: by variant, one a seed, the seeds in the same order.
    """
    names, table = list(values), np.array(list(values.values()), float)
    if len(names) < 2 or table.shape[1] < 2:
        return Pool(None, 0, [], [])
    kept = np.ones(len(names), bool)
    if len(names) > 2:
        # seeds' effects by the median over variants: the mean would carry an unsteady variant's residuals into all others
        centered = table - table.mean(1, keepdims=True)
        variances = (centered - np.median(centered, 0)).var(1, ddof=1)
        most = _MOST_VARIANCE if table.shape[1] > 2 else stats.f.isf(_UNSTEADY / len(names), 1, len(names) - 2)
        kept = variances <= most * np.median(variances)
    pooled = table[kept]
    members, left_out = ([name for name, keep in zip(names, kept, strict=True) if bool(keep) is wanted] for wanted in (True, False))
    degrees = (len(pooled) - 1) * (table.shape[1] - 1)
    if degrees < 1:
        return Pool(None, 0, [], names)
    residuals = pooled - pooled.mean(1, keepdims=True) - pooled.mean(0) + pooled.mean()
    return Pool(float((residuals**2).sum() / degrees) ** 0.5, degrees, members, left_out)


def compare_pairs(values: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]], *, larger_is_better: bool = True) -> tuple[Pool, list[Comparison]]:
    """All comparisons that one report declares.

    Args:
        values: by variant, one a seed, the seeds in the same order.
        pairs: (variant, what it is held against), all that the report will speak of.
        larger_is_better: of the values.

    Returns:
        The pooled spread, and a comparison for each pair.
    """
    pool = pool_residuals(values)
    return pool, [_compare(values, pair, pool, len(pairs), larger_is_better) for pair in pairs]


def verdict(difference: Estimate, *, larger_is_better: bool = True) -> Verdict:
    """What a difference shows. An interval that holds zero settles nothing; that is not the same as showing that there is none."""
    if difference.low is None or difference.high is None:
        return "one seed"
    if difference.low > 0 or difference.high < 0:
        return _direction(difference.mean, larger_is_better)
    return "not settled"


def _compare(values: Mapping[str, Sequence[float]], pair: tuple[str, str], pool: Pool, comparisons: int, larger_is_better: bool) -> Comparison:
    by_seed = _differences(values[pair[0]], values[pair[1]])
    paired = estimate(by_seed)
    if len(by_seed) < 2:
        return Comparison(paired, tuple(by_seed), paired, "one seed", None, None)
    pooled = pool.deviation is not None and set(pair) <= set(pool.members)
    deviation, degrees_a_seed = (2**0.5 * (pool.deviation or 0.0), len(pool.members) - 1) if pooled else (float(np.std(by_seed, ddof=1)), 1)
    degrees = degrees_a_seed * (len(by_seed) - 1)
    error = deviation / len(by_seed) ** 0.5
    half = _quantile(degrees, comparisons) * error
    difference = Estimate(paired.mean, paired.mean - half, paired.mean + half)
    shown = verdict(difference, larger_is_better=larger_is_better)
    if shown != "not settled" or not error or 2 * stats.t.sf(abs(paired.mean) / error, degrees) >= _LIKELY:
        return Comparison(difference, tuple(by_seed), paired, shown, None, None)
    seeds = _seeds_to_settle(abs(paired.mean) / deviation, degrees_a_seed, comparisons)
    return Comparison(difference, tuple(by_seed), paired, shown, _direction(paired.mean, larger_is_better), seeds)


def _seeds_to_settle(effect: float, degrees_a_seed: int, comparisons: int) -> int | None:
    for seeds in range(2, _MOST_SEEDS + 1):
        degrees = degrees_a_seed * (seeds - 1)
        if stats.nct.sf(_quantile(degrees, comparisons), degrees, effect * seeds**0.5) >= _POWER:
            return seeds
    return None


def _quantile(degrees: int, comparisons: int) -> float:
    return float(stats.t.isf(0.025 / comparisons, degrees))


def _direction(mean: float, larger_is_better: bool) -> Literal["better", "worse"]:
    return "better" if (mean > 0) is larger_is_better else "worse"


def _differences(values: Sequence[float], baseline: Sequence[float]) -> list[float]:
    assert len(values) == len(baseline), "paired runs have the same seeds"
    return [a - b for a, b in zip(values, baseline, strict=True)]
