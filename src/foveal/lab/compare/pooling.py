"""The spread from seed to seed that variants have in common: the residual of the two-way model variant + seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pool", "pool_residuals"]

_MOST_VARIANCE = 9.0
"""Of a variant's residuals against the median variant's, for its spread to be pooled with theirs."""
_UNSTEADY = 0.01
"""With few seeds a ratio of nine is common. There a spread is left out where chance makes one of a report's so large in one report of a hundred: leaving out
more readily makes the spread of the others too small, and verdicts false."""
_DRAWS = 20_000


@dataclass(frozen=True)
class Pool:
    """The residual spread that variants have in common, and the check that says of whom it is."""

    deviation: float | None
    """Of the residuals; None where nothing could be pooled."""
    degrees: int
    """Of freedom."""
    members: list[str]
    left_out: list[str]
    """Variants whose residuals vary far more than the median variant's; their comparisons use their own spread."""
    ratios: dict[str, float]
    """By variant, the variance of its residuals against the median variant's; empty where there are fewer than three, which nothing can be told of."""
    most: float | None
    """The largest ratio that is pooled."""


def pool_residuals(values: Mapping[str, Sequence[float]]) -> Pool:
    """The residual spread of the two-way model variant + seed, over the variants whose spread allows it.

    Args:
        values: by variant, one a seed, the seeds in the same order.
    """
    names, table = list(values), np.array(list(values.values()), float)
    if len(names) < 2 or table.shape[1] < 2:
        return Pool(None, 0, [], [], {}, None)
    kept, ratios, most = np.ones(len(names), bool), {}, None
    if len(names) > 2:
        # seeds' effects by the median over variants: the mean would carry an unsteady variant's residuals into all others
        variances = _variances(table)
        most = _largest_by_chance(*table.shape)
        middle = float(np.median(variances))
        kept = variances <= most * middle
        ratios = {name: float(variance / middle) for name, variance in zip(names, variances, strict=True)} if middle else {}
    pooled = table[kept]
    members, left_out = ([name for name, keep in zip(names, kept, strict=True) if bool(keep) is wanted] for wanted in (True, False))
    degrees = (len(pooled) - 1) * (table.shape[1] - 1)
    if degrees < 1:
        return Pool(None, 0, [], names, ratios, most)
    residuals = pooled - pooled.mean(1, keepdims=True) - pooled.mean(0) + pooled.mean()
    return Pool(float((residuals**2).sum() / degrees) ** 0.5, degrees, members, left_out, ratios, most)


def _variances(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every variant's residuals, ``(…, variants)`` of ``(…, variants, seeds)``."""
    centered = table - table.mean(-1, keepdims=True)
    return (centered - np.median(centered, -2, keepdims=True)).var(-1, ddof=1)


@cache
def _largest_by_chance(variants: int, seeds: int) -> float:
    """The largest ratio that is pooled."""
    drawn = _variances(np.random.default_rng(0).standard_normal((_DRAWS, variants, seeds)))
    with np.errstate(divide="ignore"):
        return max(_MOST_VARIANCE, float(np.quantile(drawn.max(-1) / np.median(drawn, -1), 1 - _UNSTEADY)))
