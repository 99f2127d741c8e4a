"""Early stopping on validation: a function of the history, so that a run that goes on comes to the same end."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .checkpoint import read_weights, restore, write_weights
from .reading import read_history
from .recipe import Recipe

__all__ = ["Early"]

_BEST = "best.safetensors"


class Early:
    """Which evaluation was the best so far, and whether training is over. Without ``patience`` it does nothing."""

    def __init__(self, recipe: Recipe, run: Path, first: int) -> None:
        self._patience, self._run, self._steps = recipe.patience, run, recipe.steps
        self._metric, self._sign = f"val_{recipe.task.primary_metric.name}", 1 if recipe.task.primary_metric.larger_is_better else -1
        self._best, self._at, self._since = (-math.inf, -math.inf), 0, 0
        if self._patience is not None and first and (run / "history.jsonl").exists():
            for entry in read_history(run / "history.jsonl", [self._metric]):
                if entry["step"] <= first:
                    self._count(entry)

    @property
    def over(self) -> bool:
        return self._patience is not None and self._since >= self._patience

    def saw(self, entry: Mapping[str, Any], judged: nn.Module, writes: bool) -> None:
        """An evaluation; the weights are kept if it was the best."""
        if self._patience is not None and self._count(entry) and writes:
            write_weights(self._run / _BEST, judged.state_dict())

    def take_best_(self, judged: nn.Module) -> None:
        if self._patience is not None and self._at:
            restore(judged, read_weights(self._run / _BEST), self._run / _BEST)

    def notes(self, last: int) -> list[str]:
        if self._patience is None or not self._at:
            return []
        ended = f"training ended early, at step {last} of {self._steps}; " if last < self._steps else ""
        return [f"{ended}the weights are those of step {self._at}, the best on validation, where they look better than they are"]

    def _count(self, entry: Mapping[str, Any]) -> bool:
        # of few images many evaluations are equal, and the loss tells them apart
        value = (self._sign * float(entry[self._metric]), -float(entry.get("val_loss", 0.0)))
        if value > self._best:
            self._best, self._at, self._since = value, int(entry["step"]), 0
            return True
        self._since += 1
        return False
