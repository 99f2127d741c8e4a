"""The figures of the report, from the results alone. All are SVG, with the fonts of the page."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._colors import ARM_COLORS
from .resolution import ResolutionPoint, resolution_figure

__all__ = ["figures"]

_INK = "#24292f"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#c9ced6",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
Draw = Callable[[dict[str, Any]], Figure]


def figures(results: dict[str, Any]) -> dict[str, str]:
    """SVG by name: ``headline``, ``difference``, ``curves``, ``cost``, and where there is something to show ``resolution``, ``regions``, ``lambdas`` and
    ``angles``.
    """
    arms = results["arms"]
    signed = [arm for arm in arms if arm["lambdas"] and arm["lambdas"][0]]
    wanted: dict[str, tuple[bool, Draw]] = {
        "headline": (True, _headline),
        "difference": (any(arm["difference"] and arm["difference"]["low"] is not None for arm in arms), _difference),
        "curves": (True, _curves),
        "cost": (True, _cost),
        "resolution": (bool(results["resolution"]), _resolution),
        "regions": (any(arm["regions"] for arm in arms), _regions),
        "lambdas": (bool(signed), _lambdas),
        "angles": (any(arm["angles"] for arm in arms), _angles),
    }
    with matplotlib.rc_context(_STYLE):
        return {name: _svg(draw(results)) for name, (there, draw) in wanted.items() if there}


def _headline(results: dict[str, Any]) -> Figure:
    arms, metric = results["arms"], results["metric"]
    figure, axes = _wide(0.42 * len(arms) + 0.9)
    scale, found = metric["scale"], [arm["metrics"][metric["name"]] for arm in arms]
    for place, value in enumerate(found):
        _estimate(axes, place, value, _color(place), scale)
    if metric["chance"] is not None:
        axes.axvline(scale * metric["chance"], color="#c9ced6", linestyle=":")
    _rows(axes, [arm["name"] for arm in arms])
    # every interval is seen whole, as far as such numbers go
    ends = [scale * end for value in found for end in (value["low"], value["high"], *value["by_seed"]) if end is not None]
    margin = 3 if metric["unit"] == "%" else 0.05 * (max(ends) - min(ends)) + 1e-6
    top = 100 if metric["unit"] == "%" else float("inf")
    axes.set_xlim(max(0, min(ends) - margin), min(top, max(ends) + margin))
    axes.set_xlabel(f"test {_label(metric)}: each seed (small), mean and 95 % interval (bold)")
    return figure


def _label(metric: dict[str, Any]) -> str:
    return f"{metric['label']}, {metric['unit']}" if metric["unit"] else metric["label"]


def _difference(results: dict[str, Any]) -> Figure:
    arms = [(place, arm) for place, arm in enumerate(results["arms"]) if arm["difference"]]
    figure, axes = _wide(0.42 * len(arms) + 0.9)
    for row, (place, arm) in enumerate(arms):
        _estimate(axes, row, arm["difference"], _color(place), results["metric"]["scale"])
    axes.axvline(0, color=_INK, linewidth=1)
    _rows(axes, [arm["name"] for _, arm in arms])
    baseline, step = results["arms"][0]["name"], results["metric"]["step"]
    axes.set_xlabel(f"difference from {baseline} with the same seed, {step}:\nwhere an interval crosses the line, better or worse is not settled")
    return figure


def _curves(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, arm in enumerate(results["arms"]):
        for axes, key, factor in ((left, "value", results["metric"]["scale"]), (right, "train_loss", 1)):
            values = factor * np.array([[entry[key] for entry in curve] for curve in arm["curves"]])
            steps = [entry["step"] for entry in arm["curves"][0]]
            axes.plot(steps, values.mean(0), color=_color(place), label=arm["name"])
            axes.fill_between(steps, values.min(0), values.max(0), color=_color(place), alpha=0.12, linewidth=0)
    left.set(xlabel="step", ylabel=f"validation {_label(results['metric'])}")
    right.set(xlabel="step", ylabel="training loss")
    left.legend(fontsize=9)
    return figure


def _cost(results: dict[str, Any]) -> Figure:
    panels = (("parameters", 1e3, "parameters, thousand"), ("macs", 1e6, "multiply-adds, million"), ("milliseconds_per_image", 1, "time, ms an image"))
    last = (("training_bytes", 1e6, "training memory, MB"),)
    figure = Figure(figsize=(9, 0.3 * len(results["arms"]) + 1.1), layout="constrained")
    row = figure.subplots(1, 4, sharey=True)
    for axes, (key, unit, label) in zip(row, panels + last, strict=True):
        values = [arm[key] / unit for arm in results["arms"]]
        axes.barh(range(len(values)), values, color=[_color(place) for place in range(len(values))], height=0.62)
        for place, value in enumerate(values):
            axes.text(value, place, f" {value:.3g}", va="center", fontsize=8.5)
        axes.set_xlim(right=1.28 * max(values))
        axes.set_xlabel(label, fontsize=9)
        axes.grid(axis="y", visible=False)
    _rows(row[0], [arm["name"] for arm in results["arms"]])
    return figure


def _resolution(results: dict[str, Any]) -> Figure:
    return resolution_figure([ResolutionPoint(**point) for point in results["resolution"]])


def _regions(results: dict[str, Any]) -> Figure:
    rows = [(place, arm["name"], name) for place, arm in enumerate(results["arms"]) for name in dict.fromkeys(region["map"] for region in arm["regions"])]
    figure = Figure(figsize=(9, 0.34 * len(rows) + 1.1), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, region in zip(panels, ("target", "distractors"), strict=True):
        chance = 0.0
        for row, (place, arm_name, name) in enumerate(rows):
            arm = next(arm for arm in results["arms"] if arm["name"] == arm_name)
            found = next(entry for entry in arm["regions"] if entry["map"] == name and entry["region"] == region)
            chance = found["chance"]
            masses = 100 * np.array(found["by_seed"])
            axes.barh(row, masses.mean(), color=_color(place), height=0.6, alpha=0.45 if name == "negative" else 0.9)
            axes.plot(masses, [row] * len(masses), "o", color=_INK, markersize=3, clip_on=False)
        axes.axvline(100 * chance, color=_INK, linestyle="--", linewidth=1)
        axes.axvline(0, color="#c9ced6", linewidth=1)
        axes.text(100 * chance, -0.85, "everywhere alike", fontsize=8.5, ha="center")
        axes.set_xlabel(f"share of attention on the {region}, %")
        axes.grid(axis="y", visible=False)
    _rows(panels[0], [arm if name == "combined" else f"{arm}: {name}" for _, arm, name in rows], top=-1.1)
    return figure


def _lambdas(results: dict[str, Any]) -> Figure:
    signed = [(place, arm) for place, arm in enumerate(results["arms"]) if arm["lambdas"] and arm["lambdas"][0]]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    panels = figure.subplots(1, len(signed), sharey=True, squeeze=False)[0]
    for axes, (place, arm) in zip(panels, signed, strict=True):
        layers = list(arm["lambdas"][0])
        for number, layer in enumerate(layers):
            values = np.array([seed[layer] for seed in arm["lambdas"]])
            heads = number + np.linspace(-0.28, 0.28, values.shape[1])
            axes.plot(np.tile(heads, (len(values), 1)), values, "o", color=_color(place), markersize=4, alpha=0.7)
        axes.axhline(0.5, color=_INK, linestyle="--", linewidth=1)
        axes.set_xticks(range(len(layers)), [f"layer {n}" for n in range(len(layers))])
        axes.set_title(arm["name"], fontsize=10.5)
        axes.set_ylabel("λ of each head")
    return figure


def _angles(results: dict[str, Any]) -> Figure:
    arms = [(place, arm) for place, arm in enumerate(results["arms"]) if arm["angles"]]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for axes, (place, arm) in zip(panels, arms, strict=True):
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
    return figure


def _wide(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


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


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
