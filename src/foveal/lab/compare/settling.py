"""How often a comparison of so many seeds would be settled, and in which way, were the difference this large."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr

__all__ = ["Noise", "Settled", "chances", "seeds_to_settle", "smallest_seen"]

Array = NDArray[np.float64]
POWER = 0.8
MOST_SEEDS = 100
_SEEDS = (*range(2, 41), *range(42, 61, 2), *range(65, MOST_SEEDS + 1, 5))
_POINTS = 48
"""At which the distribution of an estimated spread is read."""


@dataclass(frozen=True)
class Noise:
    """Of a comparison, and the bounds that its verdict has."""

    deviation: float
    """Of a seed's difference."""
    degrees_a_seed: int
    """Degrees of freedom that each seed after the first adds."""
    rate: float
    """Two-sided p below which a difference is settled."""
    equal_rate: float
    """One-sided p of each of the two tests for equality within the margin."""
    margin: float
    shared: float = 0.0
    """Standard deviation that more seeds do not lessen, of a test set that they have in common."""


@dataclass(frozen=True)
class Settled:
    """Probabilities, each by number of seeds."""

    above: Array
    below: Array
    equal: Array

    @property
    def any(self) -> Array:
        return self.above + self.below + self.equal


def chances(noise: Noise, effect: float, seeds: tuple[int, ...] = _SEEDS) -> Settled:
    """What would come out, were the difference ``effect``."""
    spread, bound, equal_bound = _tables(noise.degrees_a_seed, noise.rate, noise.equal_rate, seeds)
    count = np.array(seeds, float)[:, None]
    true = (noise.deviation**2 / count + noise.shared**2) ** 0.5
    seen = (noise.deviation**2 * spread / count + noise.shared**2) ** 0.5
    inside = np.clip(np.minimum(noise.margin - equal_bound * seen, bound * seen), 0, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = 1 - ndtr((bound * seen - effect) / true), ndtr((-bound * seen - effect) / true)
        equal = ndtr((inside - effect) / true) - ndtr((-inside - effect) / true)
    return Settled(above.mean(1), below.mean(1), np.clip(equal, 0, None).mean(1))


def seeds_to_settle(noise: Noise, effect: float) -> int | None:
    """The fewest seeds that settle it, in any way, in four cases of five; None where a hundred do not."""
    enough = np.flatnonzero(chances(noise, effect).any >= POWER)
    return _SEEDS[enough[0]] if len(enough) else None


def smallest_seen(noise: Noise, seeds: int) -> float:
    """The smallest difference that is settled as one in four cases of five."""
    low, high = 0.0, 1e3 * (noise.deviation + noise.shared)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if chances(noise, middle, (seeds,)).above[0] >= POWER else (middle, high)
    return high


@lru_cache(maxsize=256)
def _tables(degrees_a_seed: int, rate: float, equal_rate: float, seeds: tuple[int, ...]) -> tuple[Any, Any, Any]:
    degrees = degrees_a_seed * (np.array(seeds)[:, None] - 1)
    share = (np.arange(_POINTS) + 0.5) / _POINTS
    return stats.chi2.ppf(share, degrees) / degrees, stats.t.isf(rate / 2, degrees), stats.t.isf(equal_rate, degrees)
