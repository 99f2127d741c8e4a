"""Principal angles between both value maps of denoising attention: as a run goes, beside chance, and whether they have to do with what is gained."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from torch import nn

from ...analysis import chance_angles, value_angles
from ...attention import TokenAttention

__all__ = ["WHEN", "AnglesSeen", "Watch", "cause_of", "chance_of", "correlated"]

Watch = Callable[[int], None]
"""Sees every step before it is made, and the number of steps once all are."""
WHEN = ("start", "half", "end")


class AnglesSeen:
    """Watches a run of so many steps; in networks without two value maps there is nothing to see."""

    def __init__(self, steps: int) -> None:
        self._at = {0: "start", steps // 2: "half", steps: "end"}
        self._seen: dict[str, float] = {}

    def of(self, net: nn.Module) -> Watch:
        """What watches a network."""

        def see(step: int) -> None:
            if step in self._at and (found := mean_angle(net)) is not None:
                self._seen[self._at[step]] = found

        return see

    def values(self) -> dict[str, float]:
        """Mean angle over heads and layers in degrees, ``angle at start`` and so on, and ``turn``, how much it grew from start to end."""
        if not self._seen:
            return {}
        return {f"angle at {when}": self._seen[when] for when in WHEN} | {"turn": self._seen["end"] - self._seen["start"]}


def mean_angle(net: nn.Module) -> float | None:
    """Mean principal angle over heads and layers, in degrees; None where no attention has two value maps."""
    found = value_angles(net)
    return mean(head.mean for head in found) if found else None


def chance_of(net: nn.Module) -> float | None:
    """Mean angle of random subspaces of the sizes that a network's value maps have; None where it has not two of them."""
    # (H, d, C)
    sizes = [(maps[0].shape[2], maps[0].shape[1]) for module in net.modules() if len(maps := _maps(module)) == 2]
    return chance_angles(*sizes[0])[1] if sizes else None


def correlated(angles: Mapping[str, Sequence[float]], gains: Mapping[str, Sequence[float]], *, draws: int = 10_000) -> dict[str, Any]:
    """Pearson's r over arms and seeds, its interval of 95 % by bootstrap over seeds, and how many pairs there are.

    Args:
        angles: by arm, one a seed.
        gains: likewise.
        draws: of the bootstrap.

    Returns:
        ``r``, ``low`` and ``high``, all None where angles or gains do not differ, and ``pairs``.
    """
    x, y = (np.array([of[arm] for arm in angles], float) for of in (angles, gains))
    r = _pearson(x, y)
    if r is None:
        return {"r": None, "low": None, "high": None, "pairs": x.size}
    chosen = np.random.default_rng(0).integers(x.shape[1], size=(draws, x.shape[1]))
    drawn = [value for seeds in chosen if (value := _pearson(x[:, seeds], y[:, seeds])) is not None]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"r": r, "low": float(low), "high": float(high), "pairs": x.size}


def cause_of(found: Sequence[Mapping[str, Any]]) -> str:
    """What correlations in several parts say of the paper's cause together: supported, contradicted or not shown."""
    bounds = [(one["low"], one["high"]) for one in found]
    # one task decides nothing of both
    if len(bounds) < 2 or any(low is None for low, _ in bounds):
        return "not shown"
    return "supported" if all(low > 0 for low, _ in bounds) else "contradicted" if all(high < 0 for _, high in bounds) else "not shown"


def _pearson(x: Any, y: Any) -> float | None:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else None


def _maps(module: nn.Module) -> tuple[Any, ...]:
    return module.value_weights() if isinstance(module, TokenAttention) else ()
