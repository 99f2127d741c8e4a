"""Looking at results more than once: at which p each look may stop, so that all looks together err as rarely as one would (Pocock 1977)."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from ..._errors import InputError

__all__ = ["check_looks", "rate_of_a_look"]


def check_looks(looks: Sequence[int]) -> None:
    """Refuse numbers of seeds that nobody can look at in turn.

    Raises:
        ValueError: none, fewer than two seeds, or numbers that do not grow.
    """
    if not looks or looks[0] < 2 or list(looks) != sorted(set(looks)):
        raise InputError(f"expected looks at numbers of seeds that grow, from 2 on, got {' '.join(map(str, looks)) or 'none'}")


@lru_cache(maxsize=64)
def rate_of_a_look(looks: tuple[int, ...], rate: float) -> float:
    """The two-sided p at which each look stops, where ``rate`` is that of all together.

    The means at two looks of m and n seeds, m < n, correlate by √(m / n).
    """
    if len(looks) <= 1:
        return rate
    seeds = np.array(looks, float)
    correlation = np.sqrt(np.minimum.outer(seeds, seeds) / np.maximum.outer(seeds, seeds))
    means = stats.multivariate_normal(cov=correlation, seed=0, maxpts=100_000, abseps=1e-5, releps=1e-5)

    def missing(bound: float) -> float:
        ends = np.full(len(looks), bound)
        return float(means.cdf(ends, lower_limit=-ends)) - (1 - rate)

    single = float(stats.norm.isf(rate / 2))
    bound = optimize.brentq(missing, single, float(stats.norm.isf(rate / 2 / len(looks))), xtol=1e-4)
    return float(2 * stats.norm.sf(bound))
