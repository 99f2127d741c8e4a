"""The report: one HTML file that needs nothing beside it, made of the results alone."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ...analysis.pictures import is_signed, overlay
from ..training.checkpoint import replace_file
from ._colors import ARM_COLORS
from ._theme import css_colors
from .drawn_quality import quality_lines, quality_table
from .figures import figures
from .inside import angle_words, branch_words
from .places import place_lines
from .places_page import how_trained, places_section
from .results import check_results
from .words import MARKS, one_sample, sample_name

__all__ = ["render_report", "write_report", "write_summary"]


def write_report(results: dict[str, Any], path: Path, *, viewer: Path | None = None) -> Path:
    """Render and write whole.

    Args:
        results: of the comparison.
        path: of the report.
        viewer: the page of :func:`write_viewer`, which lies beside it and is linked to.

    Raises:
        ValueError: the results do not fit the schema.
    """
    replace_file(path, render_report(check_results(results), viewer=None if viewer is None else viewer.name).encode(errors="backslashreplace"))
    return path


def render_report(results: dict[str, Any], *, viewer: str | None = None) -> str:
    """HTML, with figures and pictures inside; with a link to ``viewer``, if that is given."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    metric = results["metric"]
    environment.filters |= {
        "points": lambda value: _points(value, metric),
        "value": lambda value: _value(value, metric),
        "spread": lambda value: _spread(value, metric),
    }
    template = environment.from_string(files("foveal.lab.compare").joinpath("report.html.j2").read_text(encoding="utf8"))
    recipe = results["plan"]["recipe"]
    places = places_section(results)
    return template.render(
        places=jinja2.filters.Markup(places),
        how_trained=how_trained(results),
        results=results,
        sample=sample_name(results),
        a_sample=one_sample(results),
        viewer=viewer,
        statistics=results["statistics"],
        recipe=recipe,
        metric=metric,
        label=_label(metric),
        arms=[arm | {"color": f"var(--c{ARM_COLORS[place % len(ARM_COLORS)][1:]})"} for place, arm in enumerate(results["arms"])],
        baseline=results["arms"][0],
        figures={name: [jinja2.filters.Markup(panel) for panel in panels] for name, panels in figures(results).items()},
        pictures=_pictures(results),
        drawn=_drawn(results),
        quality=quality_table(results),
        branches=branch_words(results),
        angles=angle_words(results),
        measured_on=_measured_on(results),
        timed_on=_timed_on(results),
        sampling=_sampling(results),
        varied=_DATA[results["statistics"]["data"]],
        marks=MARKS,
        classes=dict.fromkeys(MARKS, "unsettled") | {name: name for name in ("better", "worse", "equal")},
        light=css_colors(dark=False),
        dark=css_colors(dark=True),
        signed=any("negative" in arm["pictures"][0]["maps"] for arm in results["arms"] if arm["pictures"]),
        ramp=_ramp(signed=False),
        signed_ramp=_ramp(signed=True),
    )


_DATA = {
    "of each seed": "Each seed draws its own data, split and test samples, besides initial weights and order.",
    "of all seeds": "All seeds have the same data, split and test samples: they vary initial weights and order alone.",
}


def _ramp(*, signed: bool) -> str:
    """Every color of a map, from the least to the most, over the gray of an empty image."""
    steps = np.linspace(-1 if signed else 0, 1, 160)
    return overlay(np.full((16, 160, 1), 110), np.tile(steps, (16, 1)), signed=signed)


def _sampling(results: dict[str, Any]) -> str:
    """What the intervals say of the draw of test samples."""
    metric, first = results["metric"], results["comparisons"][0]["sampling"] if results["comparisons"] else None
    if first is None:
        if results["statistics"]["data"] == "of each seed":
            return "So the intervals include which samples the test has."
        why = "the scores of single test samples are not kept, or the number is no mean of them"
        return f"The intervals do not include that other test samples might have been drawn, as {why}."
    moved = f"{_spread(first['own'], metric)} {metric['step']}"
    own = f"in the deciding comparison the draw of test samples alone moves a seed's difference by {moved} (standard deviation)"
    if results["statistics"]["data"] == "of each seed" and not first["shared"]:
        return f"So the intervals include which samples the test has; {own}."
    return f"The intervals include that other test samples might have been drawn, which more seeds do not lessen; {own}."


def write_summary(results: dict[str, Any], path: Path) -> Path:
    """The verdict and the table as Markdown, to be pasted where no HTML goes."""
    machine, recipe, metric = results["machine"], results["plan"]["recipe"], results["metric"]
    how = f"{len(results['arms'])} attentions × {len(results['plan']['seeds'])} seeds × {recipe['steps']} steps on {recipe['data']['kind']}"
    lines = [
        "# What the comparison showed",
        "",
        f"Made by `foveal compare` on {results['created'][:10]}: {how};",
        f"{machine['processor']}, {machine['cores']} cores, torch {results['versions']['torch']}.",
        "",
        f"**{results['verdict']['headline']}**",
        "",
        *(f"- {line['mark']} {line['text']}" for line in results["verdict"]["lines"]),
        f"- {_DATA[results['statistics']['data']]} {_sampling(results)}",
        *(f"- Note: {note}" for note in results["task"]["notes"]),
        "",
        *place_lines(results),
        f"| attention | test {_label(metric)} (95 % interval) | Δ, {metric['step']} (interval that holds with all others) "
        "| parameters | multiply-adds "
        f"| ms {one_sample(results)}, {_timed_on(results)} |",
        "|---|---|---|---|---|---|",
        *(_table_row(arm, results) for arm in results["arms"]),
        "",
        *quality_lines(results),
        *(f"- {line}" for line in branch_words(results) + angle_words(results)),
        "",
    ]
    replace_file(path, "\n".join(lines).encode(errors="backslashreplace"))
    return path


def _measured_on(results: dict[str, Any]) -> str:
    return str(results["arms"][0].get("device", "cpu"))


def _timed_on(results: dict[str, Any]) -> str:
    device = _measured_on(results)
    return "one thread" if device == "cpu" else f"the {device} device"


def _label(metric: dict[str, Any]) -> str:
    return f"{metric['label']}, {metric['unit']}" if metric["unit"] else metric["label"]


def _table_row(arm: dict[str, Any], results: dict[str, Any]) -> str:
    metric = results["metric"]
    value = arm["metrics"][metric["name"]]
    interval = "" if value["low"] is None else f" ({_value(value['low'], metric)} to {_value(value['high'], metric)})"
    against = [
        f"{_points(found['mean'], metric)} to {one['against']}"
        + ("" if found["low"] is None else f" ({_points(found['low'], metric)} to {_points(found['high'], metric)}) {MARKS[one['verdict']]}")
        for one in results["comparisons"]
        if one["arm"] == arm["name"] and (found := one["difference"])
    ]
    cost = f"{arm['parameters']:,} | {arm['macs'] / 1e6:.2f} M | {arm['milliseconds_per_image']:.2f}"
    return f"| {arm['name']} | {_value(value['mean'], metric)}{interval} | {'; '.join(against) or 'baseline'} | {cost} |"


def _drawn(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of pictures: the samples and their truth, then what every arm made of them."""
    return results["drawn"] + [row | {"title": f"{arm['name']}: {row['title']}"} for arm in results["arms"] for row in arm["drawn"]]


def _pictures(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of pictures: the images, then every map of every arm under them."""
    images = results["images"]
    if not any(arm["pictures"] for arm in results["arms"]):
        return []
    rows: list[dict[str, Any]] = [{"title": "image", "cells": [{"picture": overlay(i["image"]), "caption": i["label"], "wrong": False} for i in images]}]
    for arm in results["arms"]:
        names = list(arm["pictures"][0]["maps"]) if arm["pictures"] else []
        for name in sorted(names, key=["combined", "positive", "negative"].index):
            cells = [
                {
                    "picture": overlay(image["image"], shown["maps"][name], signed=is_signed(name, names)),
                    "caption": shown["predicted"] if name == "combined" else "",
                    "wrong": shown["predicted"] != image["label"],
                }
                for image, shown in zip(images, arm["pictures"], strict=True)
            ]
            rows.append({"title": arm["name"] if name == "combined" else f"{arm['name']}: {name}", "cells": cells})
    return rows


def _points(value: float, metric: dict[str, Any]) -> str:
    return f"{metric['scale'] * value:+.{metric['decimals']}f}".replace("-", "−")


def _spread(value: float, metric: dict[str, Any]) -> str:
    """A digit finer than the metric: of what is small beside it, its own digits would leave nothing."""
    return f"{metric['scale'] * value:.{metric['decimals'] + 1}f}"


def _value(value: float, metric: dict[str, Any]) -> str:
    return f"{metric['scale'] * value:.{metric['decimals']}f}".replace("-", "−")
