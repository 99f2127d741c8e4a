"""What went on inside of signed attentions, in words: every statement with its interval over seeds, or as not settled."""

from collections.abc import Sequence
from typing import Any

from .statistics import Estimate, estimate

__all__ = ["angle_words", "branch_words"]

_ALIKE = 1e-5
"""Distance from chance that rounding makes of a map that is uniform by its formula, as that which centered softmax subtracts."""


def branch_words(results: dict[str, Any]) -> list[str]:
    """Where the two branches of signed attentions look."""
    signed = [(arm, {(entry["map"], entry["region"]): entry for entry in arm["regions"]}) for arm in results["arms"]]
    signed = [(arm, entries) for arm, entries in signed if ("negative", "target") in entries]
    return [_branches(arm["name"], entries, len(signed)) for arm, entries in signed]


def _branches(name: str, entries: dict[tuple[str, str], dict[str, Any]], comparisons: int) -> str:
    share = {key: _mean(entry["by_seed"]) for key, entry in entries.items()}
    distracted = entries["negative", "distractors"]
    chance, found = distracted["chance"], estimate(distracted["by_seed"], comparisons=comparisons)
    return (
        f"{name}: the positive branch put {share['positive', 'target']:.0%} of its attention on the target and the negative one "
        f"{share['negative', 'target']:.0%}; on the distractors {share['positive', 'distractors']:.0%} and {share['negative', 'distractors']:.0%}, "
        f"where looking everywhere alike gives {chance:.0%}. {_against_chance(found, chance)}"
    )


def _against_chance(found: Estimate, chance: float) -> str:
    if found.low is None or found.high is None:
        return "From one seed it is not settled whether the negative branch looks at what distracts more than chance does."
    interval = f"(interval {found.low:.0%} to {found.high:.0%})"
    if max(abs(end - chance) for end in (found.low, found.high)) < _ALIKE:
        return "So the negative branch looks everywhere alike."
    if found.low > chance:
        return f"So the negative branch looked at what distracts more than chance does {interval}."
    if found.high < chance:
        return f"So the negative branch looked at what distracts less than chance does {interval}."
    return f"Whether the negative branch looked at what distracts more or less than chance does is not settled {interval}."


def angle_words(results: dict[str, Any]) -> list[str]:
    """What became of the angle between the value spaces."""
    neighbors = [row["smallest"] for row in results["arms"][0]["neighbor_angles"]]
    ordinary = f"; between neighboring heads of the softmax baseline it is {_mean(neighbors):.0f}° on average" if neighbors else ""
    arms = [arm for arm in results["arms"] if arm["angles"]]
    # two statements an arm: the change, and the distance from chance
    return [f"{arm['name']}: {_moved(arm['angles'], 2 * len(arms))}{ordinary}." for arm in arms]


def _moved(angles: dict[str, Any], comparisons: int) -> str:
    start, end, chance = angles["by_seed"]["initial"], angles["by_seed"]["trained"], angles["chance"]["smallest"]
    change = estimate([after - before for before, after in zip(start, end, strict=True)], comparisons=comparisons)
    excess = estimate([after - chance for after in end], comparisons=comparisons)
    went = f"the smallest angle went from {_mean(start):.0f}° to {_mean(end):.0f}°"
    if change.low is None or change.high is None or excess.low is None:
        return f"{went} in one seed, which is not conclusive, where chance is {chance:.0f}°"
    interval = f"change {change.mean:+.0f}°, interval {change.low:+.0f}° to {change.high:+.0f}°".replace("-", "−")
    if change.low > 0 and excess.low > 0:
        words = "training drove the two spaces apart"
    elif change.low > 0:
        words = "training moved the two spaces away from each other, not shown to be beyond chance"
    elif change.high < 0:
        words = "training moved the two spaces closer"
    else:
        words = "whether training moved the two spaces is not settled"
    return f"{words}: {went} ({interval}), where chance is {chance:.0f}°"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
