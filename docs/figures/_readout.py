"""What the figure of signed read-outs shows: the steps that are predicted, and what the page of proofs and a study hold of the same arms."""

import json
import re
from pathlib import Path
from statistics import mean

WIDTH = 32
"""Of the tokens, in the proof and in the study."""

Points = dict[str, dict[int, tuple[float, float, float]]]
"""Mean, lowest and highest error by arm and rank."""


def left_by_sharp_heads(inner_width: float, rank: float) -> float:
    """The error of a contrast, relative to predicting 0, of heads that give all their weight to one token: (2r − W)/2r, and never below 0."""
    return max(0.0, 1 - inner_width / (2 * rank))


def proof_points(page: str, what: str = "contrast") -> Points:
    """Rows ``ARM, WHAT`` of the section on signed read-outs, whose about says the rank; nothing where there is no such section."""
    section = re.search(r"^## Signed read-out\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    rank = re.search(r"content has (\d+) numbers", section[1])
    rows = re.findall(rf"^\| ([\w-]+), {re.escape(what)} \| ([\d.]+) \| ([\d.]+) – ([\d.]+) \|", section[1], re.MULTILINE)
    if rank is None or not rows:
        raise ValueError("the section on signed read-outs says no rank, or has no row of what is asked for")
    return {arm: {int(rank[1]): (float(middle), float(low), float(high))} for arm, middle, low, high in rows}


def study_points(data: Path) -> Points:
    """Part S1 in the data beside the page of ``foveal study denoising``, without arms that diverged; nothing where there is none, or of a rehearsal."""
    if not data.exists():
        return {}
    points: Points = {}
    for found in json.loads(data.read_text("utf8"))["registrations"]:
        for row in found["parts"].get("S1", {"rows": ()})["rows"] if not found["smoke"] else ():
            values = row["values"]["error"]
            if None not in values:
                points.setdefault(row["arm"], {})[int(row["setting"].removeprefix("rank "))] = (mean(values), min(values), max(values))
    return points
