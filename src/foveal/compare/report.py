"""The report: one HTML file that needs nothing beside it, made of the results alone."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..analysis.pictures import is_signed, overlay
from ..training.checkpoint import replace_file
from ._colours import ARM_COLOURS
from .figures import figures
from .results import check_results

__all__ = ["render_report", "write_report", "write_summary"]


def write_report(results: dict[str, Any], path: Path) -> Path:
    """Render and write whole.

    Raises:
        ValueError: the results do not fit the schema.
    """
    replace_file(path, render_report(check_results(results)).encode(errors="backslashreplace"))
    return path


def render_report(results: dict[str, Any]) -> str:
    """HTML, with figures and pictures inside."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    metric = results["metric"]
    environment.filters |= {"points": lambda value: _points(value, metric), "value": lambda value: _value(value, metric)}
    template = environment.from_string(files("foveal.compare").joinpath("report.html.j2").read_text(encoding="utf8"))
    recipe = results["plan"]["recipe"]
    return template.render(
        results=results,
        recipe=recipe,
        metric=metric,
        label=_label(metric),
        arms=[arm | {"colour": ARM_COLOURS[place % len(ARM_COLOURS)]} for place, arm in enumerate(results["arms"])],
        baseline=results["arms"][0],
        figures={name: jinja2.filters.Markup(svg) for name, svg in figures(results).items()},
        pictures=_pictures(results),
        drawn=_drawn(results),
        branches=_branches(results),
        angles=_angles(results),
        false_alarm=1 - 0.95 ** len(results["verdict"]["lines"]),
    )


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
        *(f"- {line['text']}" for line in results["verdict"]["lines"]),
        *(f"- Note: {note}" for note in results["task"]["notes"]),
        "",
        f"| attention | test {_label(metric)} (95 % interval) | from {results['arms'][0]['name']}, {metric['step']} (95 % interval) "
        "| parameters | multiply-adds | ms an image |",
        "|---|---|---|---|---|---|",
        *(_table_row(arm, metric) for arm in results["arms"]),
        "",
        *(f"- {line}" for line in _branches(results) + _angles(results)),
        "",
    ]
    replace_file(path, "\n".join(lines).encode(errors="backslashreplace"))
    return path


def _label(metric: dict[str, Any]) -> str:
    return f"{metric['label']}, {metric['unit']}" if metric["unit"] else metric["label"]


def _table_row(arm: dict[str, Any], metric: dict[str, Any]) -> str:
    value, difference = arm["metrics"][metric["name"]], arm["difference"]
    interval = "" if value["low"] is None else f" ({_value(value['low'], metric)} to {_value(value['high'], metric)})"
    against = "baseline" if difference is None else _points(difference["mean"], metric)
    if difference is not None and difference["low"] is not None:
        against += f" ({_points(difference['low'], metric)} to {_points(difference['high'], metric)})"
    cost = f"{arm['parameters']:,} | {arm['macs'] / 1e6:.2f} M | {arm['milliseconds_per_image']:.2f}"
    return f"| {arm['name']} | {_value(value['mean'], metric)}{interval} | {against} | {cost} |"


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


def _branches(results: dict[str, Any]) -> list[str]:
    """Where the two branches of signed attentions look, in words."""
    lines = []
    for arm in results["arms"]:
        share = {(entry["map"], entry["region"]): sum(entry["by_seed"]) / len(entry["by_seed"]) for entry in arm["regions"]}
        chance = {entry["region"]: entry["chance"] for entry in arm["regions"]}
        if ("negative", "target") in share:
            excess = share["negative", "distractors"] - chance["distractors"]
            sought = "about as much as" if abs(excess) < 0.02 else "more than" if excess > 0 else "less than"
            lines.append(
                f"{arm['name']}: the positive branch put {share['positive', 'target']:.0%} of its attention on the target and the negative one "
                f"{share['negative', 'target']:.0%}; on the distractors {share['positive', 'distractors']:.0%} and {share['negative', 'distractors']:.0%}, "
                f"where looking everywhere alike gives {chance['distractors']:.0%}. So the negative branch looked at what distracts {sought} chance does."
            )
    return lines


def _angles(results: dict[str, Any]) -> list[str]:
    """What became of the angle between the value spaces, in words."""
    neighbours = [row["smallest"] for row in results["arms"][0]["neighbour_angles"]]
    ordinary = f"; between neighbouring heads of the softmax baseline it is {_mean(neighbours):.0f}°" if neighbours else ""
    lines = []
    for arm in results["arms"]:
        if arm["angles"]:
            start, end = (_mean([row["smallest"] for row in arm["angles"][when]]) for when in ("initial", "trained"))
            chance = arm["angles"]["chance"]["smallest"]
            apart = "drove the two spaces apart" if end > max(start, chance) else "moved the two spaces closer" if end < start else "did not drive them apart"
            lines.append(f"{arm['name']}: training {apart}: the smallest angle went from {start:.0f}° to {end:.0f}°, where chance is {chance:.0f}°{ordinary}.")
    return lines


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _points(value: float, metric: dict[str, Any]) -> str:
    return f"{metric['scale'] * value:+.{metric['decimals']}f}".replace("-", "−")


def _value(value: float, metric: dict[str, Any]) -> str:
    return f"{metric['scale'] * value:.{metric['decimals']}f}".replace("-", "−")
