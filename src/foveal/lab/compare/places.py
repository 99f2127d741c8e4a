"""Where an attention helps in a pretrained network: places in order, cost beside gain, and plainly whether anything helped. Made of the results alone."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .statistics import Estimate, estimate

__all__ = ["AT", "CONTROLS", "Place", "Variant", "answer", "has_places", "place_lines", "ranked", "variants"]

AT = "@"
"""Between attention and place in the name of an arm."""
_LEARNED = 1.5
"""Times chance."""
CONTROLS = ("softmax", "softmax-wide", "softmax-centered", "pointwise")
"""What is no attention under test: the network's own, that with more heads, and convolutions."""


@dataclass(frozen=True)
class Variant:
    """An attention at a place, against the network as it is."""

    name: str
    attention: str
    place: str
    control: bool
    gain: Estimate
    """Of the metric, positive where it is better; the interval is the report's."""
    by_seed: tuple[float, ...]
    verdict: str
    against: dict[str, Any] | None
    """The comparison with its control."""
    parameters: float
    """Of the whole network, as a share more than the network as it is has; and so are the others."""
    macs: float
    time: float


@dataclass(frozen=True)
class Place:
    """What all attentions that were tried everywhere gained at a place, on their mean."""

    name: str
    gain: Estimate
    """Its interval holds together with those of the other places."""
    behind: Estimate | None
    """Of the first place less this one, with an interval that holds together with those of the other places; None of the first."""
    macs: float
    members: tuple[str, ...]


def has_places(results: dict[str, Any]) -> bool:
    return results["plan"]["recipe"]["model"].get("kind") == "Pretrained" and any(AT in arm["name"] for arm in results["arms"])


def variants(results: dict[str, Any]) -> list[Variant]:
    """By gain, the largest first."""
    sign = 1 if results["metric"]["larger_is_better"] else -1
    own = results["arms"][0]
    found = []
    for arm in results["arms"][1:]:
        attention, _, place = arm["name"].partition(AT)
        held = {one["against"]: one for one in results["comparisons"] if one["arm"] == arm["name"]}
        with_own = held.pop(own["name"])
        difference = with_own["difference"]
        gain = _signed(Estimate(difference["mean"], difference["low"], difference["high"]), sign)
        share = {key: arm[key] / own[key] - 1 for key in ("parameters", "macs", "milliseconds_per_image")}
        by_seed = tuple(sign * value for value in difference["by_seed"])
        costs = (share["parameters"], share["macs"], share["milliseconds_per_image"])
        found.append(Variant(arm["name"], attention, place, attention in CONTROLS, gain, by_seed, with_own["verdict"], next(iter(held.values()), None), *costs))
    return sorted(found, key=lambda one: -one.gain.mean)


def ranked(found: list[Variant], images: int) -> list[Place]:
    """Places by the mean gain of those attentions, controls aside, that were tried at each of them; none where no attention was.

    A spread below that of rounding to one test image is none that was seen, as in the verdicts.
    """
    places = list(dict.fromkeys(one.place for one in found))
    tried = [one for one in found if not one.control]
    common = [name for name in dict.fromkeys(one.attention for one in tried) if {one.place for one in tried if one.attention == name} == set(places)]
    if not common or len(places) < 2:
        return []
    by_place = {}
    for place in places:
        rows = [one for one in tried if one.place == place and one.attention in common]
        by_seed = [sum(values) / len(values) for values in zip(*(one.by_seed for one in rows), strict=True)]
        by_place[place] = by_seed, sum(one.macs for one in rows) / len(rows)
    order = sorted(places, key=lambda place: -sum(by_place[place][0]))
    first = by_place[order[0]][0]
    return [
        Place(
            place,
            _rounded(by_place[place][0], len(places), images),
            None if place == order[0] else _rounded([a - b for a, b in zip(first, by_place[place][0], strict=True)], len(places) - 1, images),
            by_place[place][1],
            tuple(common),
        )
        for place in order
    ]


def answer(found: list[Variant], results: dict[str, Any]) -> str:
    """Whether anything helped, in a sentence or two."""
    metric, seeds = results["metric"], len(results["plan"]["seeds"])
    best = max(arm["metrics"][metric["name"]]["mean"] for arm in results["arms"])
    if metric["chance"] is not None and metric["larger_is_better"] and best < _LEARNED * metric["chance"]:
        return "No variant learned much more than guessing, so this says nothing of places."
    tried = [one for one in found if not one.control]
    if seeds < 2:
        return "One seed is not conclusive: whether anything helps, and where, needs several."
    helped = [one for one in tried if one.verdict == "better"]
    worse = [one.name for one in tried if one.verdict == "worse"]
    if helped:
        said = [f"{one.name} is better than the network as it is{_beside(one)}" for one in helped]
        return f"{'; '.join(said)}. The others, {len(tried) - len(helped)}, were not shown to help."
    lost = f" {', '.join(worse)} {'was' if len(worse) == 1 else 'were'} shown to be worse." if worse else ""
    few = " “Not shown” is not “no difference”: the intervals below say how large a gain would have been seen." if len(worse) < len(tried) else ""
    return f"Nothing helped: no attention, wherever it was put, was shown to be better than the network as it is, fine-tuned.{lost}{few}"


def _beside(one: Variant) -> str:
    if one.against is None:
        return ""
    if one.against["verdict"] == "better":
        return f", and better than {one.against['against']}, its control"
    return f", but not shown to be better than {one.against['against']}, its control, so the gain may be that of parameters"


def order_words(places: list[Place]) -> str:
    """What the order of places shows."""
    if not places:
        return ""
    of = f"on the mean of {', '.join(places[0].members)}"
    if places[0].gain.mean == places[1].gain.mean:
        return f"No place came out before the others, {of}."
    settled = [place.name for place in places if place.behind is not None and place.behind.low is not None and place.behind.low > 0]
    if len(settled) == len(places) - 1:
        return f"{places[0].name} is the best of the {len(places)} places, {of}."
    if settled:
        return f"{places[0].name} came out first, {of}, and was shown to be better than {', '.join(settled)} alone."
    return f"{places[0].name} came out first, {of}; that it is better than any other place was not shown."


def shown(value: float, metric: dict[str, Any]) -> str:
    return f"{metric['scale'] * value:+.{metric['decimals']}f}".replace("-", "−")


def interval(found: Estimate, metric: dict[str, Any]) -> str:
    return "" if found.low is None or found.high is None else f"{shown(found.low, metric)} to {shown(found.high, metric)}"


def place_lines(results: dict[str, Any]) -> list[str]:
    """The same as Markdown; nothing where the comparison is not one of places."""
    if not has_places(results):
        return []
    metric, found = results["metric"], variants(results)
    places = ranked(found, results["task"]["test_images"])
    lines = [f"**Where?** {answer(found, results)} {order_words(places)}".rstrip(), ""]
    if places:
        lines += [f"| place | mean gain, {metric['step']} (interval) | multiply-adds |", "|---|---|---|"]
        lines += [f"| {place.name} | {shown(place.gain.mean, metric)} ({interval(place.gain, metric)}) | {place.macs:+.1%} |" for place in places]
        lines.append("")
    return lines


def _rounded(values: list[float], comparisons: int, images: int) -> Estimate:
    found, spread, least = estimate(values, comparisons=comparisons), float(np.std(values)), 1 / images / 6**0.5
    if found.low is None or found.high is None or len(values) < 2 or spread * (len(values) / (len(values) - 1)) ** 0.5 >= least:
        return found
    unit = estimate([-1.0] + [0.0] * (len(values) - 2) + [1.0], comparisons=comparisons)
    deviation = float(np.std([-1.0] + [0.0] * (len(values) - 2) + [1.0], ddof=1))
    assert unit.high is not None, "of two seeds and more"
    half = unit.high * least / deviation
    return Estimate(found.mean, found.mean - half, found.mean + half)


def _signed(found: Estimate, sign: int) -> Estimate:
    values = asdict(found)
    if sign > 0 or found.low is None or found.high is None:
        return Estimate(sign * values["mean"], values["low"], values["high"])
    return Estimate(-found.mean, -found.high, -found.low)
