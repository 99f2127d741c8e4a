"""The verdict of a comparison in words, for somebody who reads nothing else."""

from typing import Any

from ..tasks import Headline

__all__ = ["verdict_words"]

_BASELINES = {"softmax": "softmax attention", "none": "the network without attention", "own": "the network as it is"}
"""What comparisons are held against, in words."""
_AS_MANY = 0.01


def verdict_words(arms: list[dict[str, Any]], seeds: int, headline: Headline, chance: float | None, baseline: str) -> dict[str, Any]:
    """``headline``, ``lines`` (one a comparison) and ``resolution`` (the median half-width of the intervals)."""
    compared = [arm for arm in arms if arm["difference"]]
    plain = _BASELINES.get(baseline, baseline)
    if not compared:
        return {"headline": f"Only {plain} has results, so there is nothing to compare it with.", "lines": [], "resolution": None}
    other = baseline if baseline == "softmax" else plain
    lines = [{"arm": arm["name"], "text": _line(f"{arm['name']}:", other, arm, headline)} for arm in compared]
    for arm in compared:
        if arm["rival"]:
            against = f"{arm['name']} against {arm['rival']['name']}, its matched baseline ({_size(arm, arms)}):"
            lines.append({"arm": arm["name"], "text": _line(against, arm["rival"]["name"], arm["rival"], headline)})
    if seeds < 2:
        return {
            "headline": "One seed is not conclusive: a second run of the same attention may differ as much. Use five or more.",
            "lines": lines,
            "resolution": None,
        }
    halves = sorted((arm["difference"]["high"] - arm["difference"]["low"]) / 2 for arm in compared)
    return {"headline": _headline(arms, compared, headline, chance, plain, other), "lines": lines, "resolution": halves[len(halves) // 2]}


def _headline(arms: list[dict[str, Any]], compared: list[dict[str, Any]], headline: Headline, chance: float | None, plain: str, other: str) -> str:
    if chance is not None and headline.larger_is_better and max(arm["metrics"][headline.name]["mean"] for arm in arms) < 1.5 * chance:
        return "No attention learned much more than guessing, so this says nothing about them. Train longer."
    kinds = [arm["verdict"] for arm in compared]
    probable = "; ".join(
        f"{_listed(names)} {'is' if len(names) == 1 else 'are'} probably {kind}"
        for kind in ("better", "worse")
        if (names := [arm["name"] for arm in compared if arm["leaning"] == kind])
    )
    if set(kinds) == {"not settled"}:
        return f"No attention compared was shown to be better or worse than {plain}{'; ' + probable if probable else ''}."
    found = " and ".join(f"{kinds.count(kind)} {'is' if kinds.count(kind) == 1 else 'are'} {kind}" for kind in ("better", "worse") if kind in kinds)
    unsettled = kinds.count("not settled")
    rest = f"; for {unsettled} it is not settled{' (' + probable + ')' if probable else ''}" if unsettled else ""
    return f"Of {len(compared)} attentions compared with {other}, {found}{rest}."


def _line(subject: str, other: str, compared: dict[str, Any], headline: Headline) -> str:
    difference, shown = compared["difference"], compared["verdict"]
    points = f"{_signed(difference['mean'], headline)} {headline.step}"
    if difference["low"] is None:
        return f"{subject} {points} from one seed, which is not conclusive."
    interval = f"interval {_signed(difference['low'], headline)} to {_signed(difference['high'], headline)}"
    if shown != "not settled":
        return f"{subject} {shown} than {other} by {_signed(abs(difference['mean']), headline)[1:]} {headline.step} ({interval})."
    leaning = f", probably {compared['leaning']} than {other}" if compared["leaning"] else ""
    line = f"{subject} not settled{leaning} ({points}, {interval})"
    if not leaning:
        return f"{line}."
    by_seed = difference["by_seed"]
    if all(value < 0 for value in by_seed) or all(value > 0 for value in by_seed):
        line += f"; all {len(by_seed)} seeds were {'below' if by_seed[0] < 0 else 'above'} {other}"
    seeds = compared["seeds_to_settle"]
    return f"{line}; if it is as large as it looks, {seeds or 'more than a hundred'} seeds would most likely settle it."


def _size(arm: dict[str, Any], arms: list[dict[str, Any]]) -> str:
    rival = next(other for other in arms if other["name"] == arm["rival"]["name"])
    more = arm["parameters"] / rival["parameters"] - 1
    return "as many parameters" if abs(more) < _AS_MANY else f"parameters of the whole network {more:+.1%} to its".replace("-", "−")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _signed(value: float, headline: Headline) -> str:
    """As the headline is shown, with a real minus sign."""
    return f"{headline.scale * value:+.{headline.decimals}f}".replace("-", "−")
