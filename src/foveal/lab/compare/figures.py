"""The figures of the report, from the results alone. All are SVG, with the fonts and colors of the page."""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._colors import ARM_COLORS
from ._theme import INK, LINE, STYLE, svg
from .gain import gain_panels
from .intervals import interval_plot
from .resolution import ResolutionPoint, resolution_figure

__all__ = ["figures"]

_INK = INK
Panels = Callable[[dict[str, Any]], list[Figure]]


def figures(results: dict[str, Any]) -> dict[str, list[str]]:
    """SVG panels by name: ``values``, ``curves``, and where there is something to show ``intervals``, ``gain``, ``rates``, ``resolution``, ``regions``,
    ``lambdas`` and ``angles``. A page lays panels of one name side by side where there is room.
    """
    arms = results["arms"]
    signed = [arm for arm in arms if arm["lambdas"] and arm["lambdas"][0]]
    wanted: dict[str, tuple[bool, Panels]] = {
        "intervals": (bool(results["comparisons"]), lambda results: [interval_plot(results)]),
        "values": (True, lambda results: [_values(results)]),
        "curves": (True, _curves),
        "gain": (True, gain_panels),
        "rates": (results["tuning"] is not None, lambda results: [_rates(results)]),
        "resolution": (bool(results["resolution"]), lambda results: [_resolution(results)]),
        "regions": (any(arm["regions"] for arm in arms), _regions),
        "lambdas": (bool(signed), _lambdas),
        "angles": (any(arm["angles"] for arm in arms), _angles),
    }
    with matplotlib.rc_context(STYLE):
        drawn = {name: [svg(figure) for figure in draw(results)] for name, (there, draw) in wanted.items() if there}
    return {name: panels for name, panels in drawn.items() if panels}


def _panel(height: float = 2.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, height), layout="constrained")
    return figure, figure.subplots()


def _values(results: dict[str, Any]) -> Figure:
    arms, metric = results["arms"], results["metric"]
    figure = Figure(figsize=(6.2, 0.42 * len(arms) + 0.9), layout="constrained")
    axes = figure.subplots()
    scale, found = metric["scale"], [arm["metrics"][metric["name"]] for arm in arms]
    for place, value in enumerate(found):
        _estimate(axes, place, value, _color(place), scale)
    if metric["chance"] is not None:
        axes.axvline(scale * metric["chance"], color=LINE, linestyle=":")
    _rows(axes, [arm["name"] for arm in arms])
    # every interval is seen whole, as far as such numbers go
    ends = [scale * end for value in found for end in (value["low"], value["high"], *value["by_seed"]) if end is not None]
    margin = 3 if metric["unit"] == "%" else 0.05 * (max(ends) - min(ends)) + 1e-6
    top = 100 if metric["unit"] == "%" else float("inf")
    axes.set_xlim(max(0, min(ends) - margin), min(top, max(ends) + margin))
    axes.set_xlabel(f"test {_label(metric)}: seeds (small), mean\nand 95 % interval of each by itself")
    return figure


def _rates(results: dict[str, Any]) -> Figure:
    tuning, metric = results["tuning"], results["metric"]
    figure, axes = _panel(3.2)
    for place, arm in enumerate(results["arms"]):
        found = tuning["arms"][arm["name"]]
        rows = [[metric["scale"] * value for value in seeds if value is not None] for seeds in found["values"]]
        means = [sum(row) / len(row) if row else float("nan") for row in rows]
        axes.plot(tuning["rates"], means, "-", color=_color(place), label=arm["name"])
        for rate, row in zip(tuning["rates"], rows, strict=True):
            axes.plot([rate] * len(row), row, "o", color=_color(place), markersize=3.5, alpha=0.6)
        axes.plot([found["chosen"]], [means[tuning["rates"].index(found["chosen"])]], "D", color=_color(place), markersize=8)
    axes.set_xscale("log")
    axes.set_xticks(tuning["rates"], [f"{rate:g}" for rate in tuning["rates"]])
    axes.minorticks_off()
    axes.set(xlabel="highest learning rate (diamond: chosen)", ylabel=f"validation {_label(metric)}")
    axes.legend(fontsize=8.5)
    return figure


def _label(metric: dict[str, Any]) -> str:
    return f"{metric['label']}, {metric['unit']}" if metric["unit"] else metric["label"]


def _curves(results: dict[str, Any]) -> list[Figure]:
    panels = []
    for key, factor, label in (("value", results["metric"]["scale"], f"validation {_label(results['metric'])}"), ("train_loss", 1, "training loss")):
        figure, axes = _panel(3.2)
        for place, arm in enumerate(results["arms"]):
            values = factor * np.array([[entry[key] for entry in curve] for curve in arm["curves"]])
            steps = [entry["step"] for entry in arm["curves"][0]]
            axes.plot(steps, values.mean(0), color=_color(place), label=arm["name"])
            axes.fill_between(steps, values.min(0), values.max(0), color=_color(place), alpha=0.14, linewidth=0)
        axes.set(xlabel="step", ylabel=label)
        axes.legend(fontsize=8.5)
        panels.append(figure)
    return panels


def _resolution(results: dict[str, Any]) -> Figure:
    return resolution_figure([ResolutionPoint(**point) for point in results["resolution"]])


def _regions(results: dict[str, Any]) -> list[Figure]:
    rows = [(place, arm, name) for place, arm in enumerate(results["arms"]) for name in dict.fromkeys(region["map"] for region in arm["regions"])]
    panels = []
    for region in ("target", "distractors"):
        figure, axes = _panel(0.34 * len(rows) + 1.1)
        chance = 0.0
        for row, (place, arm, name) in enumerate(rows):
            found = next(entry for entry in arm["regions"] if entry["map"] == name and entry["region"] == region)
            chance = found["chance"]
            masses = 100 * np.array(found["by_seed"])
            axes.barh(row, masses.mean(), color=_color(place), height=0.6, alpha=0.45 if name == "negative" else 0.9)
            axes.plot(masses, [row] * len(masses), "o", color=_INK, markersize=3, clip_on=False)
        axes.axvline(100 * chance, color=_INK, linestyle="--", linewidth=1)
        axes.axvline(0, color=LINE, linewidth=1)
        axes.text(100 * chance, -0.85, "everywhere alike", fontsize=8.5, ha="center")
        axes.set_xlabel(f"share of attention on the {region}, %")
        axes.grid(axis="y", visible=False)
        _rows(axes, [arm["name"] if name == "combined" else f"{arm['name']}: {name}" for _, arm, name in rows], top=-1.1)
        panels.append(figure)
    return panels


def _lambdas(results: dict[str, Any]) -> list[Figure]:
    panels = []
    for place, arm in enumerate(results["arms"]):
        if not arm["lambdas"] or not arm["lambdas"][0]:
            continue
        figure, axes = _panel(2.6)
        layers = list(arm["lambdas"][0])
        for number, layer in enumerate(layers):
            values = np.array([seed[layer] for seed in arm["lambdas"]])
            heads = number + np.linspace(-0.28, 0.28, values.shape[1])
            axes.plot(np.tile(heads, (len(values), 1)), values, "o", color=_color(place), markersize=4, alpha=0.7)
        axes.axhline(0.5, color=_INK, linestyle="--", linewidth=1)
        axes.set_xticks(range(len(layers)), [f"layer {n}" for n in range(len(layers))])
        axes.set_title(arm["name"], fontsize=10.5)
        axes.set_ylabel("λ of each head")
        panels.append(figure)
    return panels


def _angles(results: dict[str, Any]) -> list[Figure]:
    panels = []
    for place, arm in enumerate(results["arms"]):
        if not arm["angles"]:
            continue
        figure, axes = _panel(2.6)
        for column, (when, kind) in enumerate((w, k) for k in ("smallest", "mean") for w in ("initial", "trained")):
            values = [row[kind] for row in arm["angles"][when]]
            spread = np.linspace(-0.25, 0.25, len(values))
            axes.plot(column + spread, values, "o", color=_color(place), markersize=3, alpha=0.35 if when == "initial" else 0.8)
            axes.plot([column - 0.35, column + 0.35], [np.mean(values)] * 2, color=_color(place), linewidth=2)
        for kind, (start, end) in (("smallest", (-0.45, 1.45)), ("mean", (1.55, 3.45))):
            axes.plot([start, end], [arm["angles"]["chance"][kind]] * 2, color=_INK, linestyle="--", linewidth=1)
        axes.set_xticks(range(4), ["smallest,\nat the start", "smallest,\ntrained", "mean,\nat the start", "mean,\ntrained"], fontsize=9)
        axes.set_ylim(0, 90)
        axes.set_title(arm["name"], fontsize=10.5)
        axes.set_ylabel("angle of V⁺ to V⁻, degrees")
        panels.append(figure)
    return panels


def _estimate(axes: Axes, row: int, value: dict[str, Any], color: str, scale: float) -> None:
    if value["low"] is not None:
        axes.plot([scale * value["low"], scale * value["high"]], [row, row], color=color, linewidth=2.5, solid_capstyle="round")
    axes.plot([scale * seed for seed in value["by_seed"]], [row] * len(value["by_seed"]), "o", color=color, markersize=3.5, alpha=0.5)
    axes.plot([scale * value["mean"]], [row], "o", color=color, markersize=8)


def _rows(axes: Axes, names: list[str], top: float = -0.6) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, top)
    axes.tick_params(axis="y", length=0)


def _color(place: int) -> str:
    return ARM_COLORS[place % len(ARM_COLORS)]
