"""Cost against gain: what each variant costs beside the baseline, and what it brings."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ._colors import ARM_COLORS
from ._theme import INK, SOFT
from .intervals import reach
from .words import one_sample

__all__ = ["gain_panels"]

_COSTS = {"parameters": "parameters", "macs": "multiply-adds", "milliseconds_per_image": "time {one}", "training_bytes": "training memory"}


def gain_panels(results: dict[str, Any]) -> list[Figure]:
    """A panel for each cost; none where nothing is compared with the baseline."""
    arms, metric = results["arms"], results["metric"]
    baseline = arms[0]
    against = {one["arm"]: one for one in results["comparisons"] if one["against"] == baseline["name"]}
    if not against:
        return []
    end = metric["scale"] * reach(list(against.values()), results["statistics"]["margin"])
    return [_panel(arms, against, key, label.format(one=one_sample(results)), metric, end) for key, label in _COSTS.items() if all(arm[key] for arm in arms)]


def _panel(arms: list[dict[str, Any]], against: dict[str, dict[str, Any]], key: str, label: str, metric: dict[str, Any], end: float) -> Figure:
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=1)
    axes.plot([0], [0], "s", color=ARM_COLORS[0], markersize=7, label=arms[0]["name"])
    for place, arm in enumerate(arms):
        if arm["name"] not in against:
            continue
        difference = against[arm["name"]]["difference"]
        cost, color = 100 * (arm[key] / arms[0][key] - 1), ARM_COLORS[place % len(ARM_COLORS)]
        gain = metric["scale"] * difference["mean"]
        if difference["low"] is not None:
            axes.plot([cost, cost], np.clip([metric["scale"] * difference[side] for side in ("low", "high")], -end, end), color=color, linewidth=2)
        if abs(gain) <= end:
            axes.plot([cost], [gain], "o", color=color, markersize=7, label=arm["name"])
        else:
            axes.plot(
                [cost],
                [np.sign(gain) * 0.97 * end],
                "v" if gain < 0 else "^",
                color=color,
                markersize=9,
                label=f"{arm['name']}: {gain:+.{metric['decimals']}f}".replace("-", "−"),
            )
    axes.set_ylim(-end, end)
    axes.margins(x=0.12)
    axes.set_xlabel(f"{label}, % beyond {arms[0]['name']}")
    axes.set_ylabel(f"gain, {metric['step']}" if metric["larger_is_better"] else f"difference, {metric['step']}; below is better")
    axes.legend(fontsize=8.5, loc="best", labelcolor=SOFT)
    return figure
