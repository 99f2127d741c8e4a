"""What the runs say of what was claimed: paired differences over seeds, Holm over hypotheses, and three words for the outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = ["Found", "Outcome", "Verdict", "holm", "judge_claim", "verdict_of"]

Outcome = Literal["held", "refuted", "not settled"]
_POWER = 0.8


@dataclass(frozen=True)
class Found:
    """Of one claim. All differences are the arm less what it is held against."""

    mean: float
    low: float
    high: float
    """Of the 95 % interval."""
    p: float
    """Of the claim, not corrected."""
    refuted: bool
    seeds_for: int
    """Seeds in which the difference has the stated sign, or is within the margin."""
    detectable: float
    """The difference that would be seen in four of five such studies, with the spread that was found."""


@dataclass(frozen=True)
class Verdict:
    """Of one hypothesis."""

    outcome: Outcome
    p: float
    """The largest of its claims'."""
    corrected: float


def judge_claim(differences: Sequence[float], relation: str, margin: float, alpha: float = 0.05) -> Found:
    """One claim over the seeds.

    Args:
        differences: of the arm from what it is held against, one a seed, at least two.
        relation: ``greater``, ``less``, ``above zero``, ``below zero``, ``equal`` or ``at limit``; the last two mean within the margin.
        margin: what counts as equal.
        alpha: level of the intervals.
    """
    values = np.asarray(differences, float)
    degrees, mean, error = len(values) - 1, float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
    half, narrow = (float(stats.t.isf(tail, degrees)) * error for tail in (alpha / 2, alpha))
    low, high = mean - half, mean + half
    detectable = float(stats.t.isf(alpha / 2, degrees) + stats.t.isf(1 - _POWER, degrees)) * error
    if relation in ("equal", "at limit"):
        p = max(_tail(mean + margin, error, degrees), _tail(margin - mean, error, degrees))
        return Found(mean, low, high, p, low > margin or high < -margin, int((abs(values) <= margin).sum()), detectable)
    sign = 1 if relation in ("greater", "above zero") else -1
    # two-sided, though the direction was stated: the bar that differences are held to elsewhere
    p = min(1.0, 2 * _tail(sign * mean, error, degrees))
    other_side, nothing = (high < 0 if sign > 0 else low > 0), mean + narrow <= margin and mean - narrow >= -margin
    shown = p < alpha
    return Found(mean, low, high, p, other_side or (nothing and not shown), int((sign * values > 0).sum()), detectable)


def holm(values: Sequence[float], family: int | None = None) -> list[float]:
    """Corrected p, in the given order (Holm 1979).

    Args:
        values: of tests that were made.
        family: tests that were registered, if more: those that were not made count as not significant.
    """
    family, largest, out = max(family or 0, len(values)), 0.0, [1.0] * len(values)
    for rank, place in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        largest = max(largest, min(1.0, (family - rank) * values[place]))
        out[place] = largest
    return out


def verdict_of(found: Sequence[Found], corrected: float, alpha: float) -> Verdict:
    """Held if the corrected p of all claims together is below alpha; refuted if any claim is; else not settled."""
    outcome: Outcome = "held" if corrected < alpha else "refuted" if any(claim.refuted for claim in found) else "not settled"
    return Verdict(outcome, max(claim.p for claim in found), corrected)


def best_rate(tuning: Mapping[float, Sequence[float]], larger_is_better: bool) -> float:
    """The rate with the best mean, the lower of equal ones."""
    sign = -1 if larger_is_better else 1
    return min(sorted(tuning), key=lambda rate: sign * float(np.mean(tuning[rate])))


def _tail(distance: float, error: float, degrees: int) -> float:
    if error == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(stats.t.sf(distance / error, degrees))
