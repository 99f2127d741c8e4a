"""Results of a study as one JSON value: what was registered, every number, and what became of every hypothesis. The pages are made of it alone."""

import json
import os
import platform
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from ..._machine import processor
from ..training import write_json
from .angles import WHEN, chance_of, correlated
from .judging import Found, holm, judge_claim, verdict_of
from .kinds import KINDS
from .registration import Claim, Hypothesis, Part, Registration
from .run import chosen_rates, units
from .single_layer import limit
from .unit import read_unit

__all__ = ["collect", "write_results"]

RIVAL = "softmax-wide"
"""What gains are counted over where angles are."""

Values = dict[tuple[str, str, str], list[float | None]]
"""By setting, arm and metric: one a judged seed, None where the run diverged."""


def write_results(study: Registration, folder: Path) -> dict[str, Any]:
    """Collect and write ``results.json``."""
    results = collect(study, folder)
    write_json(folder / "results.json", results)
    return results


def collect(study: Registration, folder: Path) -> dict[str, Any]:
    """The results of the parts that ran, all of whose runs are done.

    Raises:
        ValueError: a run is missing or damaged.
    """
    parts, values = {}, {}
    for name, part in study.parts.items():
        parts[name], values[name] = _part(study, part, folder)
    return {
        "format": 1,
        "study": study.name,
        "follows": study.follows,
        "titles": study.titles,
        "registered": study.registered,
        "registration": study.digest,
        "smoke": study.smoke,
        "about": " ".join(study.about.split()),
        "analysis": " ".join(study.analysis.split()),
        "alpha": study.alpha,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "versions": {name: version(name) for name in ("foveal", "torch", "timm")},
        "parts": parts,
        "hypotheses": _hypotheses(study, values),
    }


def _part(study: Registration, part: Part, folder: Path) -> tuple[dict[str, Any], Values]:
    rates = chosen_rates(study, part, folder)
    tried: dict[tuple[str, str], dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for unit in units(study, part, None):
        tried[unit.setting, unit.arm][f"{unit.rate:g}"].append(read_unit(unit, folder)["values"].get(KINDS[part.kind].tuned_by or part.metric))
    values: Values = defaultdict(list)
    seconds = 0.0
    for unit in units(study, part, rates):
        found = read_unit(unit, folder)
        seconds += found["seconds"]
        for metric in _measured(part):
            values[unit.setting, unit.arm, metric].append(found["values"].get(metric))
    rows = [
        {
            "setting": setting,
            "arm": arm,
            "weights": _weights(study, part, arm, setting),
            "rate": rates[setting, arm],
            "tuning": {rate: list(of_rate) for rate, of_rate in tried[setting, arm].items()},
            "values": {metric: values[setting, arm, metric] for metric in _metrics(part)},
        }
        for setting, arm in rates
    ]
    limits = {f"error at {tokens}": limit(part.kind, tokens) for tokens in part.test_tokens} or ({"error": 0.0} if part.metric == "error" else {})
    # as it is once it was written: JSON has no tuples
    about = json.loads(json.dumps({**asdict(part), "about": " ".join(part.about.split())}))
    out = {"registered": about, "limits": limits, "rows": rows, "judged_seconds": seconds}
    return out | ({"angles": found} if (found := _angles(study, part, folder, rates, values)) else {}), values


def _angles(study: Registration, part: Part, folder: Path, rates: dict[tuple[str, str], float], values: Values) -> dict[str, Any]:
    """Of arms with two value maps: angles as the runs went, those of random subspaces, the gain over the wider softmax; and how angle and gain go together.

    Where a part does not measure them as its runs go, they are read from what its runs left; nothing where these left nothing.
    """
    at = part.settings[0]
    if part.angles:
        seen = {arm: {when: values[at, arm, f"angle at {when}"] for when in WHEN} for arm in study.arms_of(part)}
    else:
        seen = _angles_left(study, part, folder, rates, at)
    rows: dict[str, Any] = {}
    whole: dict[str, tuple[list[Any], list[float]]] = {}
    for arm, by_time in seen.items():
        random = chance_of(KINDS[part.kind].build(part, arm, study.arms_of(part)[arm], at))
        if random is None or any(value is None for of_time in by_time.values() for value in of_time):
            continue
        over = _less(values[at, arm, part.metric], values[at, RIVAL, part.metric])
        gain = None if over is None else [value if part.larger_is_better else -value for value in over]
        rows[arm] = {"chance": random, "gain": gain, **by_time}
        if gain is not None:
            whole[arm] = (by_time["end"], gain)
    together = correlated({arm: end for arm, (end, _) in whole.items()}, {arm: gain for arm, (_, gain) in whole.items()}) if whole else None
    return {"by_arm": rows, "correlation": together} if rows else {}


def _angles_left(study: Registration, part: Part, folder: Path, rates: dict[tuple[str, str], float], at: str) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = {}
    reader = KINDS[part.kind].angles
    for unit in units(study, part, rates) if reader else ():
        if reader and unit.setting == at and (angles := reader(unit, folder)):
            for when, angle in angles.items():
                found.setdefault(unit.arm, {}).setdefault(when, []).append(angle)
    return {arm: by_time for arm, by_time in found.items() if all(len(angles) == len(part.seeds) for angles in by_time.values())}


def _metrics(part: Part) -> list[str]:
    return [f"error at {tokens}" for tokens in part.test_tokens] or [part.metric]


def _measured(part: Part) -> list[str]:
    """Values that are collected: what is judged, and what else claims are about."""
    return [*_metrics(part), *(["turn", *(f"angle at {when}" for when in WHEN)] if part.angles else [])]


def _weights(study: Registration, part: Part, arm: str, setting: str) -> int:
    net = KINDS[part.kind].build(part, arm, study.arms_of(part)[arm], setting)
    return sum(parameter.numel() for parameter in net.parameters())


def _hypotheses(study: Registration, values: dict[str, Values]) -> list[dict[str, Any]]:
    tested: dict[str, list[Found] | None] = {}
    for hypothesis in study.hypotheses:
        if hypothesis.part in values and not study.smoke:
            tested[hypothesis.id] = _claims(study, hypothesis, values[hypothesis.part])
    corrected: dict[str, float] = {}
    primary = [hypothesis for hypothesis in study.hypotheses if hypothesis.primary]
    families = [primary, *([one for one in study.hypotheses if one.part == name and not one.primary] for name in study.parts)]
    for family in families:
        made = [(one.id, max(claim.p for claim in found)) for one in family if (found := tested.get(one.id))]
        corrected |= dict(zip([name for name, _ in made], holm([p for _, p in made], len(family)), strict=True))
    return [_told(study, hypothesis, tested, corrected) for hypothesis in study.hypotheses]


def _told(study: Registration, hypothesis: Hypothesis, tested: dict[str, list[Found] | None], corrected: dict[str, float]) -> dict[str, Any]:
    out: dict[str, Any] = {"id": hypothesis.id, "part": hypothesis.part, "primary": hypothesis.primary, "says": hypothesis.says}
    found = tested.get(hypothesis.id)
    if not found:
        why = "a run diverged, so it cannot be judged" if hypothesis.id in tested else "a rehearsal judges nothing" if study.smoke else "this part was not run"
        return out | {"outcome": "not judged", "why": why, "claims": [asdict(claim) for claim in hypothesis.claims]}
    verdict = verdict_of(found, corrected[hypothesis.id], study.alpha)
    claims = [asdict(claim) | asdict(one) for claim, one in zip(hypothesis.claims, found, strict=True)]
    return out | {"outcome": verdict.outcome, "p": verdict.p, "corrected": verdict.corrected, "claims": claims}


def _claims(study: Registration, hypothesis: Hypothesis, values: Values) -> list[Found] | None:
    """None where a run that it needs diverged."""
    part, out = study.parts[hypothesis.part], []
    for claim in hypothesis.claims:
        differences = _differences(claim, part, values)
        if differences is None:
            return None
        out.append(judge_claim(differences, claim.relation, part.margin, study.alpha))
    return out


def _differences(claim: Claim, part: Part, values: Values) -> list[float] | None:
    at, metric = claim.at or part.settings[0], claim.metric or part.metric
    found = _less(values[at, claim.arm, metric], _other(claim, part, values, at, metric))
    if not claim.beyond or found is None:
        return found
    there = _less(values[claim.beyond, claim.arm, metric], values[claim.beyond, claim.against, metric])
    return None if there is None else [here - other for here, other in zip(found, there, strict=True)]


def _other(claim: Claim, part: Part, values: Values, at: str, metric: str) -> list[float | None]:
    """What the arm is held against: another one, the limit, or zero."""
    if claim.against:
        return values[at, claim.against, metric]
    tokens = int(metric.rpartition(" ")[2]) if part.test_tokens else part.count(at)
    least = limit(part.kind, tokens) if claim.relation == "at limit" else 0.0
    return [least] * len(values[at, claim.arm, metric])


def _less(own: list[float | None], other: list[float | None]) -> list[float] | None:
    """Differences by seed; None where a run diverged."""
    pairs = list(zip(own, other, strict=True))
    return None if any(a is None or b is None for a, b in pairs) else [a - b for a, b in pairs]  # type: ignore[operator]


def mean_of(values: list[float | None]) -> float | None:
    """None where a run diverged."""
    return None if any(value is None for value in values) else mean(value for value in values if value is not None)
