"""Looks at a comparison that ends when its primary comparison is settled. What a look found is written down once, and stands."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..tasks import PrimaryMetric
from ..training import read_json, write_json
from ..training.reading import Damaged
from .judging import Judged
from .plan import Plan

__all__ = ["Look", "add_look", "read_looks", "seeds_judged"]

_FILE = "looks.json"
_ENDS = ("better", "worse", "equal")


@dataclass(frozen=True)
class Look:
    """The primary comparison after so many seeds."""

    seeds: int
    verdict: str
    mean: float
    low: float
    high: float
    rate: float
    """Two-sided p at which any comparison of this look is called a difference; all looks together err in one report of twenty."""

    @classmethod
    def of(cls, judged: Judged, seeds: int) -> "Look":
        if not judged.comparisons:
            return cls(seeds, "nothing to compare", 0.0, 0.0, 0.0, judged.rates.difference)
        first = judged.comparisons[0]
        assert first.difference.low is not None
        assert first.difference.high is not None
        return cls(seeds, first.verdict, first.difference.mean, first.difference.low, first.difference.high, judged.rates.difference)

    @property
    def settled(self) -> bool:
        return self.verdict in _ENDS or self.verdict == "nothing to compare"

    def words(self, headline: PrimaryMetric) -> str:
        numbers = [f"{headline.scale * value:+.{headline.decimals}f}" for value in (self.mean, self.low, self.high)]
        return f"look at {self.seeds} seeds: {self.verdict} ({numbers[0]} {headline.step}, {numbers[1]} to {numbers[2]}, at p < {self.rate:.3f})"


def read_looks(plan: Plan, folder: Path) -> list[Look]:
    """The looks there were.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return []
    remedy = f"remove {path}, and the same command looks again"
    try:
        rows: Any = read_json(path, remedy)
        found = [Look(**row) for row in rows]
        if [look.seeds for look in found] != list(plan.looks[: len(found)]):
            raise ValueError(f"looks at {[look.seeds for look in found]} seeds, of {list(plan.looks)}")
    except (TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {error}; {remedy}") from error
    return found


def add_look(folder: Path, look: Look) -> None:
    path = folder / _FILE
    write_json(path, [*(read_json(path) if path.exists() else []), asdict(look)])


def seeds_judged(plan: Plan, folder: Path) -> int:
    """How many seeds the report is of."""
    looks = read_looks(plan, folder) if plan.looks else []
    return looks[-1].seeds if looks else len(plan.seeds)
