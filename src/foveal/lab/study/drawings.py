"""The figures of a study's page, as SVG, from its JSON alone."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compare._colors import ARM_COLORS
from .angles import WHEN
from .judging import judge_claim
from .results import mean_of
from .words import percent, unit

__all__ = ["draw_angles", "draw_settings"]


def draw_settings(part: dict[str, Any]) -> str:
    """Means over the judged seeds by setting, from the best seed to the worst; over ranks with the steps that the theorem predicts."""
    about, metric = part["registered"], part["registered"]["metric"]
    settings = list(dict.fromkeys(row["setting"] for row in part["rows"]))
    ranks, by_rank = about["ranks"], len(about["ranks"]) > 1
    places = ranks if by_rank else range(len(settings))
    scale = 100 if percent(metric) else 1
    with _figure(7, 3.6) as (figure, written):
        axes = figure.subplots()
        names = list(dict.fromkeys(row["arm"] for row in part["rows"]))
        step = 0.15 if by_rank else 0.06
        for place, arm in enumerate(names):
            rows = [row["values"][metric] for row in part["rows"] if row["arm"] == arm]
            if any(value is None for values in rows for value in values):
                continue
            means = np.array([mean_of(values) for values in rows])
            spread = np.abs([[min(values) for values in rows] - means, [max(values) for values in rows] - means])
            aside = [at + step * (place - len(names) / 2) for at in places]
            axes.errorbar(aside, scale * means, yerr=scale * spread, label=arm, **_looks(place))
        axes.set(ylabel=f"{metric}, {unit(metric)}")
        if by_rank:
            for share, words in ((0.5, "C/2: softmax"), (0.75, "3C/4: 1.5 × the heads")):
                axes.axvline(share * about["width"], color="#8c959f", linestyle=":", linewidth=1)
                axes.text(share * about["width"], 1.0, words, transform=axes.get_xaxis_transform(), fontsize=8, ha="center", va="bottom", color="#57606a")
            axes.set(xlabel="rank", xticks=ranks)
        else:
            axes.set_xticks(list(places), settings)
        if not percent(metric):
            axes.set_ylim(bottom=-0.01)
        axes.legend(fontsize=8, frameon=False)
    return written[0]


def draw_angles(parts: dict[str, dict[str, Any]]) -> str:
    """Mean principal angles as runs go, with intervals of 95 % over seeds, and chance; below, the gain over the wider softmax by the angle at the end."""
    with _figure(4.6 * len(parts), 6.2) as (figure, written):
        grid = figure.subplots(2, len(parts), squeeze=False)
        arms = list(dict.fromkeys(arm for part in parts.values() for arm in part["angles"]["by_arm"]))
        for column, (name, part) in enumerate(parts.items()):
            above, below = grid[:, column]
            _draw_turning(above, part, arms)
            _draw_gain(below, part, arms)
            above.set_title(f"{name}: {part['registered']['title'].removeprefix('Principal angles: ')}", fontsize=9)
        grid[0, 0].set_ylabel("mean principal angle, °")
        grid[0, 0].legend(fontsize=8, frameon=False)
    return written[0]


def _draw_turning(axes: Axes, part: dict[str, Any], arms: list[str]) -> None:
    rows = part["angles"]["by_arm"]
    for arm, row in rows.items():
        times = [place for place, when in enumerate(WHEN) if when in row]
        found = [judge_claim(row[WHEN[place]], "above zero", 0.0) for place in times]
        means = np.array([one.mean for one in found])
        half = np.array([one.high - one.mean for one in found])
        axes.errorbar(times, means, yerr=half, label=arm, **_looks(1 + arms.index(arm)))
    axes.axhline(next(iter(rows.values()))["chance"], color="#8c959f", linestyle=":", linewidth=1)
    axes.text(0.02, next(iter(rows.values()))["chance"], "chance", transform=axes.get_yaxis_transform(), fontsize=8, va="bottom", color="#57606a")
    axes.set_xticks(range(len(WHEN)), WHEN)
    axes.set_ylim(0, 92)


def _draw_gain(axes: Axes, part: dict[str, Any], arms: list[str]) -> None:
    metric = part["registered"]["metric"]
    scale = 100 if percent(metric) else 1
    for arm, row in part["angles"]["by_arm"].items():
        if row["gain"] is not None:
            looks = _looks(1 + arms.index(arm)) | {"linestyle": "none"}
            looks.pop("capsize")
            axes.plot(row["end"], [scale * gain for gain in row["gain"]], **looks)
    axes.axhline(0, color="#8c959f", linewidth=0.8)
    sign = "" if part["registered"]["larger_is_better"] else "less "
    axes.set(xlabel="mean principal angle at the end, °", ylabel=f"gain over the wider softmax: {sign}{metric}, {unit(metric)}")


def _looks(place: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2, "color": ARM_COLORS[place % len(ARM_COLORS)]}


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, list[str]]]:
    """A figure, and a list that holds its SVG afterwards."""
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "study", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    written: list[str] = []
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, written
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    written.append(text.getvalue()[text.getvalue().index("<svg") :])
