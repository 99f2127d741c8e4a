"""The plot of the first screen: every declared comparison with its interval, its seeds and its verdict, on an axis that the close ones fill."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._theme import INK, SOFT, VERDICT_COLORS
from .words import MARKS

__all__ = ["interval_plot", "reach"]

_FAR = 4.0
"""Times the median reach of all comparisons, from which one is an outlier."""


def reach(comparisons: list[dict[str, Any]], margin: float) -> float:
    """How far from zero the axis goes: as far as intervals and seeds of those that are no outliers, and beyond the margin."""
    reaches = [
        max(abs(end) for end in (one["difference"]["low"], one["difference"]["high"], *one["difference"]["by_seed"]) if end is not None) for one in comparisons
    ]
    most = _FAR * float(np.median(reaches))
    return 1.08 * max(1.3 * margin, *(one for one in reaches if one <= most))


def interval_plot(results: dict[str, Any]) -> Figure:
    """A row for each comparison, the primary one on top."""
    found, metric, margin = results["comparisons"], results["metric"], results["statistics"]["margin"]
    scale = metric["scale"]
    end = scale * reach(found, margin)
    figure = Figure(figsize=(5.4, 0.62 * len(found) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-scale * margin, scale * margin, color=SOFT, alpha=0.13, linewidth=0)
    axes.axvline(0, color=INK, linewidth=1)
    for row, one in enumerate(found):
        _row(axes, row, one, scale, end, metric["decimals"], primary=row == 0)
    axes.set_xlim(-end, end)
    axes.set_ylim(len(found) - 0.35, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    sign = "right is better" if metric["larger_is_better"] else "left is better"
    axes.set_xlabel(f"difference in {metric['label']}, {metric['step']}; {sign}\nband: the margin; small dots: seeds", fontsize=9.5)
    return figure


def _row(axes: Axes, row: int, one: dict[str, Any], scale: float, end: float, decimals: int, *, primary: bool) -> None:
    difference, color = one["difference"], VERDICT_COLORS[one["verdict"]]
    mean = scale * difference["mean"]
    label = f"{one['arm']} − {one['against']}"
    axes.text(-end, row - 0.34, label, ha="left", va="center", fontsize=10, fontweight="bold" if primary else "normal")
    axes.text(end, row - 0.34, f"{MARKS[one['verdict']]} {one['verdict']}", ha="right", va="center", fontsize=10, color=color, fontweight="bold")
    if difference["low"] is not None:
        low, high = scale * difference["low"], scale * difference["high"]
        axes.plot(np.clip([low, high], -end, end), [row, row], color=color, linewidth=2.6, solid_capstyle="butt")
        for at, beyond, marker in ((-end, low < -end, 8), (end, high > end, 9)):
            if beyond:
                # an interval that goes on beyond the axis
                axes.plot([0.985 * at], [row], marker=marker, color=color, markersize=8, linestyle="none")
    seeds = scale * np.array(difference["by_seed"])
    inside = np.abs(seeds) <= end
    axes.plot(seeds[inside], np.full(inside.sum(), row + 0.2), "o", color=color, markersize=3.2, alpha=0.75)
    if abs(mean) <= end:
        axes.plot([mean], [row], "D" if primary else "o", color=color, markersize=8)
    else:
        side, far = -1 if mean < 0 else 1, int((~inside).sum())
        said = f"{mean:+.{decimals}f}".replace("-", "−")
        said = f"◀ {said}" if side < 0 else f"{said} ▶"
        place: dict[str, Any] = {"ha": "left" if side < 0 else "right", "va": "center", "color": color}
        axes.text(side * end, row + 0.26, f"{said}; {far} of {len(seeds)} seeds beyond the axis", fontsize=9.5, fontweight="bold", **place)
