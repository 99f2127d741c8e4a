"""Intervals over seeds, and the words for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = ["Estimate", "Verdict", "estimate", "paired_difference", "verdict"]

Verdict = Literal["better", "worse", "no difference shown", "one seed"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval by Student's t; no interval from one seed."""

    mean: float
    low: float | None
    high: float | None


def estimate(values: Sequence[float]) -> Estimate:
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Estimate(mean, mean - half, mean + half)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Of runs that differ in the attention alone: the same seed decides order, shared weights and data of both."""
    assert len(values) == len(baseline), "paired runs have the same seeds"
    return estimate([a - b for a, b in zip(values, baseline, strict=True)])


def verdict(difference: Estimate, *, larger_is_better: bool = True) -> Verdict:
    """What a paired difference shows. An interval that holds zero shows no difference; that is not the same as showing that there is none."""
    if difference.low is None or difference.high is None:
        return "one seed"
    if difference.low > 0:
        return "better" if larger_is_better else "worse"
    if difference.high < 0:
        return "worse" if larger_is_better else "better"
    return "no difference shown"
