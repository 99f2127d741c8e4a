"""What another draw of test samples would have changed: a bootstrap over seeds and samples.

Where every seed has its own test samples, the spread from seed to seed holds this already. Where seeds have samples in common, their differences move together
when other samples are drawn, and no number of seeds lessens that; it is the covariance of two seeds under redrawn samples, and is added to the error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sampling", "bootstrap"]

_DRAWS, _AT_ONCE = 2000, 100
Scored = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True)
class Sampling:
    """Of one comparison."""

    shared: float
    """Standard deviation that all seeds have in common through samples in common; 0 where each has its own."""
    own: float
    """Standard deviation of one seed's difference through its draw of test samples."""
    low: float
    high: float
    """The middle 95 of 100 means when seeds and samples are drawn anew with replacement; of few seeds such intervals are too narrow, so no verdict uses it."""


def bootstrap(runs: Mapping[str, Sequence[Scored | None]], pairs: Sequence[tuple[str, str]]) -> list[Sampling] | None:
    """For each pair; None where a run has no scores of single samples.

    Args:
        runs: by variant, for each seed scores and keys of the test samples; variants of one seed have the same.
        pairs: variants that are compared.
    """
    found = {name: [scored for scored in seeds if scored is not None] for name, seeds in runs.items()}
    if not pairs or any(len(found[name]) < len(runs[name]) for pair in pairs for name in pair):
        return None
    seeds = len(found[pairs[0][0]])
    keys = [np.unique(found[pairs[0][0]][seed][1]) for seed in range(seeds)]
    whole, place = np.unique(np.concatenate(keys), return_inverse=True)
    del place
    counts = np.zeros((seeds, len(whole)))
    sums = {name: np.zeros((seeds, len(whole))) for pair in pairs for name in pair}
    for name, table in sums.items():
        for seed, (scores, own) in enumerate(found[name]):
            at = np.searchsorted(whole, own).clip(max=len(whole) - 1)
            if not np.array_equal(whole[at], own):
                # two variants of one seed that were tested on different samples cannot be told apart from their samples
                return None
            np.add.at(table[seed], at, scores)
            if name == pairs[0][0]:
                np.add.at(counts[seed], at, 1.0)
    differences = np.concatenate([sums[one] - sums[other] for one, other in pairs])
    generator = np.random.default_rng(0)
    means = np.concatenate([_redrawn(generator, counts, differences) for _ in range(_DRAWS // _AT_ONCE)])
    means = means.reshape(_DRAWS, len(pairs), seeds)
    in_common = seeds > 1 and bool((np.count_nonzero(counts, axis=0) > 1).any())
    chosen = generator.multinomial(seeds, np.full(seeds, 1 / seeds), _DRAWS) / seeds
    return [_summary(means[:, number], chosen, in_common) for number in range(len(pairs))]


def _redrawn(generator: np.random.Generator, counts: NDArray[np.float64], differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every seed's differences when the samples of all are drawn anew, ``(draws, pairs × seeds)``."""
    size = counts.shape[1]
    weights = generator.multinomial(size, np.full(size, 1 / size), _AT_ONCE).astype(np.float64)
    totals = np.tile(weights @ counts.T, (1, len(differences) // len(counts)))
    return (weights @ differences.T) / np.maximum(totals, 1.0)


def _summary(means: NDArray[np.float64], chosen: NDArray[np.float64], in_common: bool) -> Sampling:
    covariance = np.atleast_2d(np.cov(means, rowvar=False))
    seeds = len(covariance)
    shared = max(0.0, float(covariance[~np.eye(seeds, dtype=bool)].mean())) if in_common else 0.0
    low, high = np.quantile((means * chosen).sum(1), (0.025, 0.975))
    return Sampling(shared**0.5, float(np.diag(covariance).mean()) ** 0.5, float(low), float(high))
