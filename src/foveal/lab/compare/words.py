"""The verdict of a comparison in words, for somebody who reads nothing else."""

from typing import Any

from ..tasks import PrimaryMetric

__all__ = ["MARKS", "Words", "one_sample", "sample_name", "verdict_words"]

MARKS = {"better": "▲", "worse": "▼", "equal": "=", "not settled": "?", "one seed": "?"}
"""Beside each verdict, for those who see no colors."""
_BASELINES = {"none": "the network without attention", "own": "the network as it is"}
"""What comparisons are held against, in words."""
_LARGE = 3.0
"""Times the margin, from which a difference is named in the headline though nothing about it is settled."""
_NAMED = 4
"""So many, the largest; the others are counted."""


def sample_name(results: dict[str, Any]) -> str:
    """What its samples are called; results of before it was written are of images, or say so."""
    return str(results["task"].get("sample", "image"))


def one_sample(results: dict[str, Any]) -> str:
    """With its article, as in "ms an image"."""
    name = sample_name(results)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


class Words:
    """Numbers of one report in its own unit."""

    def __init__(self, headline: PrimaryMetric, margin: float) -> None:
        self.headline, self.margin = headline, margin

    def signed(self, value: float) -> str:
        """As the headline is shown, with a real minus sign."""
        return f"{self.headline.scale * value:+.{self.headline.decimals}f}".replace("-", "−")

    def size(self, value: float) -> str:
        return f"{self.headline.scale * abs(value):.{self.headline.decimals}f} {self.headline.step}"

    def interval(self, estimate: dict[str, Any]) -> str:
        return f"{self.signed(estimate['low'])} to {self.signed(estimate['high'])}"

    def line(self, compared: dict[str, Any]) -> str:
        """One comparison."""
        name, other, found, shown = compared["arm"], _BASELINES.get(compared["against"], compared["against"]), compared["difference"], compared["verdict"]
        points = f"{self.signed(found['mean'])} {self.headline.step}"
        if found["low"] is None:
            return f"{name} against {other}: {points} from one seed, which is not conclusive."
        numbers = f"interval {self.interval(found)}"
        if shown in ("better", "worse"):
            small = f", which is less than the margin of {self.size(self.margin)}" if max(abs(found["low"]), abs(found["high"])) < self.margin else ""
            return f"{name} is {shown} than {other} by {self.size(found['mean'])} ({numbers}{small})."
        if shown == "equal":
            return f"{name} equals {other} within {self.size(self.margin)} ({points}, {numbers})."
        return f"{name} against {other}: not settled ({points}, {numbers}){self._likely(compared)}."

    def _likely(self, compared: dict[str, Any]) -> str:
        by_seed, said = compared["difference"]["by_seed"], ""
        if all(value < 0 for value in by_seed) or all(value > 0 for value in by_seed):
            said += f"; all {len(by_seed)} seeds were {'below' if by_seed[0] < 0 else 'above'}"
        if compared["likely"]:
            kind, share = max(compared["likely"].items(), key=lambda item: item[1])
            what = f"within {self.size(self.margin)} of each other" if kind == "equal" else f"{kind} by more than {self.size(self.margin)}"
            said += f"; most likely {what} ({share:.0%} by itself)"
        seeds = compared["seeds_to_settle"]
        return f"{said}; {seeds or 'more than a hundred'} seeds would settle it in four cases of five, were it as large as it looks"


def verdict_words(
    compared: list[dict[str, Any]], arms: list[dict[str, Any]], seeds: int, headline: PrimaryMetric, chance: float | None, margin: float
) -> dict[str, Any]:
    """``headline``, ``lines`` (one a comparison) and ``resolution`` (the half-width of the primary comparison's interval).

    Args:
        compared: comparisons as results keep them, the primary one first.
        arms: with their metrics.
        seeds: of each.
        headline: what they are judged by.
        chance: the number of guessing.
        margin: differences below it do not matter.
    """
    words = Words(headline, margin)
    if not headline.ranks:
        said = f"By the {headline.label} runs cannot be ranked, as each has one of its own: look at what they draw."
        return {"headline": said, "lines": [], "resolution": None}
    lines = [
        {"arm": one["arm"], "against": one["against"], "primary": not number, "verdict": one["verdict"], "mark": MARKS[one["verdict"]], "text": words.line(one)}
        for number, one in enumerate(compared)
    ]
    if not compared:
        return {"headline": f"Only {arms[0]['name']} has results, so there is nothing to compare it with.", "lines": [], "resolution": None}
    if seeds < 2:
        said = "One seed is not conclusive: a second run of the same attention may differ as much. Use five or more."
        return {"headline": said, "lines": lines, "resolution": None}
    first = compared[0]["difference"]
    resolution = (first["high"] - first["low"]) / 2
    if chance is not None and headline.larger_is_better and max(arm["metrics"][headline.name]["mean"] for arm in arms) < 1.5 * chance:
        said = "No attention learned much more than guessing, so this says nothing about them. Train longer."
    else:
        said = f"{_first(compared[0], words)}{_others(compared[1:], words)}."
    return {"headline": said, "lines": lines, "resolution": resolution}


def _first(one: dict[str, Any], words: Words) -> str:
    """The primary comparison."""
    name, other, found = one["arm"], _BASELINES.get(one["against"], one["against"]), one["difference"]
    numbers = f"({words.signed(found['mean'])} {words.headline.step}, {words.interval(found)})"
    if one["verdict"] == "equal":
        return f"{name} equals {other} within {words.size(words.margin)} {numbers}"
    if one["verdict"] == "not settled":
        return f"Whether {name} differs from {other} is not settled {numbers}"
    return f"{name} is {one['verdict']} than {other} {numbers}"


def _others(rest: list[dict[str, Any]], words: Words) -> str:
    """Counts of the other verdicts, and what is large though nothing about it is settled."""
    if not rest:
        return ""
    kinds = [one["verdict"] for one in rest]
    counts = {"better": "better", "worse": "worse", "equal": f"equal within {words.size(words.margin)}", "not settled": "not settled"}
    found = ", ".join(f"{kinds.count(kind)} {said}" for kind, said in counts.items() if kind in kinds)
    large = [one for one in rest if one["verdict"] == "not settled" and abs(one["difference"]["mean"]) > _LARGE * words.margin]
    # in a comparison of many places all of them would be a paragraph
    largest = sorted(large, key=lambda one: -abs(one["difference"]["mean"]))[:_NAMED]
    named = [f"{one['arm']} at {words.signed(one['difference']['mean'])} {words.headline.step}" for one in large if one in largest]
    named += [f"and {left} more beyond {words.size(_LARGE * words.margin)}"] if (left := len(large) - len(named)) else []
    return f"; of {len(rest)} other comparison{'s' if len(rest) > 1 else ''} {found}{' (among them ' + ', '.join(named) + ')' if named else ''}"
