"""Sentences on regions and angles: each stands on its interval over seeds."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from foveal.lab.compare.inside import angle_words, branch_words


def regions(*negative: float, chance: float = 0.2) -> dict[str, Any]:
    def entry(name: str, region: str, values: tuple[float, ...]) -> dict[str, Any]:
        return {"map": name, "region": region, "by_seed": list(values), "chance": chance}

    rows = [entry(name, region, negative) for name in ("positive", "negative") for region in ("target", "distractors")]
    return {"arms": [{"name": "denoising", "regions": rows}, {"name": "softmax", "regions": []}]}


@pytest.mark.case("R2")
@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ((0.05, 0.25, 0.40), "is not settled"),  # its mean is above chance, its interval −20 % to +67 %
        ((0.30, 0.31, 0.33), "more than chance does"),
        ((0.10, 0.11, 0.13), "less than chance does"),
        ((0.19, 0.20, 0.22), "is not settled"),
        ((0.60,), "From one seed it is not settled"),
    ],
)
def test_regions_are_judged_by_their_interval(shares, says) -> None:
    (line,) = branch_words(regions(*shares))
    assert says in line
    if len(shares) > 1:
        low, high = stats.t.interval(0.95, len(shares) - 1, np.mean(shares), stats.sem(shares))
        assert f"(interval {low:.0%} to {high:.0%})" in line


def turned(start: list[float], end: list[float], chance: float = 48.0, arms: int = 1) -> dict[str, Any]:
    angles = {"by_seed": {"initial": start, "trained": end}, "chance": {"smallest": chance}}
    return {"arms": [{"name": f"arm{n}", "angles": angles, "neighbor_angles": []} for n in range(arms)]}


@pytest.mark.case("R2")
@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        ([46.0, 47.0, 45.0], [16.0, 17.5, 15.0], "training moved the two spaces closer: the smallest angle went from 46° to 16°"),
        ([46.0, 47.0, 45.0], [60.0, 61.0, 58.0], "training drove the two spaces apart"),
        ([30.0, 31.0, 29.0], [44.0, 45.0, 42.5], "training moved the two spaces away from each other, not shown to be beyond chance"),
        ([46.0, 47.0, 45.0], [30.0, 60.0, 45.0], "whether training moved the two spaces is not settled"),
        ([46.0], [16.0], "in one seed, which is not conclusive"),
    ],
)
def test_angles_are_judged_by_their_interval(start, end, says) -> None:
    (line,) = angle_words(turned(start, end))
    assert says in line
    if len(start) > 1:
        change = np.subtract(end, start)
        # two statements are made: of the change, and of the distance from chance
        half = stats.t.ppf(1 - 0.05 / 4, len(change) - 1) * stats.sem(change)
        assert f"interval {change.mean() - half:+.0f}° to {change.mean() + half:+.0f}°".replace("-", "−") in line


@pytest.mark.case("R2")
def test_more_statements_need_wider_intervals() -> None:
    """A change that one arm's report calls settled is not among ten arms."""
    start, end = [46.0, 47.0, 45.0], [40.0, 43.5, 39.5]
    assert "moved the two spaces closer" in angle_words(turned(start, end))[0]
    assert all("is not settled" in line for line in angle_words(turned(start, end, arms=10)))
