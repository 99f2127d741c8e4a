"""Principal angles between both value maps of denoising attention, as a run goes: at its start, half-way and at its end."""

from collections.abc import Callable
from statistics import mean

from torch import nn

from ...analysis import value_angles

__all__ = ["WHEN", "AnglesSeen", "Watch"]

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
            if step in self._at and (found := value_angles(net)):
                self._seen[self._at[step]] = mean(head.mean for head in found)

        return see

    def values(self) -> dict[str, float]:
        """Mean angle over heads and layers in degrees, ``angle at start`` and so on, and ``turn``, how much it grew from start to end."""
        if not self._seen:
            return {}
        return {f"angle at {when}": self._seen[when] for when in WHEN} | {"turn": self._seen["end"] - self._seen["start"]}
