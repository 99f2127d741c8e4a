"""How wide the intervals of several comparisons must be to hold together.

The declared comparisons share variants and a spread, so that their t values are jointly a multivariate t (Dunnett 1955 for comparisons with one control). The
primary comparison has half of the error rate for itself; the bound of all others is set such that, where nothing differs, any of them is beyond its bound in
just the stated share of reports. A comparison with a spread of its own stands outside and has its share of the rate (Bonferroni).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

__all__ = ["bounds", "shares"]

_PRIMARY = 0.5
_DRAWS = 100_000


def shares(count: int) -> list[float]:
    """Of the error rate, by comparison; the first is the primary one."""
    return [1.0] if count == 1 else [_PRIMARY] + [(1 - _PRIMARY) / (count - 1)] * (count - 1)


def bounds(pairs: Sequence[tuple[str, str]], pooled: Sequence[bool], degrees: int, own_degrees: int, rate: float) -> list[float]:
    """Largest t values that chance explains, by comparison.

    Args:
        pairs: variants that are compared; the first pair is the primary comparison.
        pooled: which of them use the pooled spread.
        degrees: of the pooled spread.
        own_degrees: of the others.
        rate: share of reports in which anything may be beyond its bound where nothing differs.
    """
    together = tuple(pair for pair, is_pooled in zip(pairs, pooled, strict=True) if is_pooled)
    share = shares(len(pairs))
    group = rate * sum(part for part, is_pooled in zip(share, pooled, strict=True) if is_pooled)
    alone = [_above(rate * part / 2, own_degrees) if own_degrees else float("inf") for part in share]
    if not together:
        return alone
    # the primary's own bound, where it is among those that share a spread
    first = _above(rate * share[0] / 2, degrees) if pooled[0] and len(together) > 1 else None
    rest = _joint(together, degrees, group, first)
    own = [first if first is not None and number == 0 else rest for number in range(len(pairs))]
    return [mine if is_pooled else other for mine, other, is_pooled in zip(own, alone, pooled, strict=True)]


@lru_cache(maxsize=4096)
def _joint(pairs: tuple[tuple[str, str], ...], degrees: int, rate: float, first: float | None) -> float:
    """The bound that all have in common, but for the first where that has its own."""
    if len(pairs) == 1:
        return _above(rate / 2, degrees)
    sizes = _sizes(pairs, degrees)
    largest = np.where(sizes[:, 0] > first, np.inf, sizes[:, 1:].max(1)) if first is not None else sizes.max(1)
    return float(np.quantile(largest, 1 - rate, method="higher"))


@lru_cache(maxsize=8)
def _sizes(pairs: tuple[tuple[str, str], ...], degrees: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Of the t values where nothing differs; the same draws in every report."""
    generator = np.random.default_rng(0)
    names = sorted({name for pair in pairs for name in pair})
    means = dict(zip(names, generator.standard_normal((len(names), _DRAWS)), strict=True))
    spread = (generator.chisquare(degrees, _DRAWS) / degrees) ** 0.5
    return np.stack([np.abs(means[one] - means[other]) / (2**0.5 * spread) for one, other in pairs], 1)


def _above(share: float, degrees: int) -> float:
    """What Student's t exceeds with that probability."""
    return -float(stdtrit(degrees, share))
