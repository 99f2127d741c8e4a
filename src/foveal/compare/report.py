"""The report: one HTML file that needs nothing beside it, made of the results alone."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..analysis.pictures import is_signed, overlay
from ..training.checkpoint import replace_file
from .figures import ARM_COLOURS, figures
from .results import check_results

__all__ = ["render_report", "write_report"]


def write_report(results: dict[str, Any], path: Path) -> Path:
    """Render and write whole.

    Raises:
        ValueError: the results do not fit the schema.
    """
    replace_file(path, render_report(check_results(results)).encode())
    return path


def render_report(results: dict[str, Any]) -> str:
    """HTML, with figures and pictures inside."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"points": _points, "percent": _percent}
    template = environment.from_string(files("foveal.compare").joinpath("report.html.j2").read_text(encoding="utf8"))
    recipe = results["plan"]["recipe"]
    return template.render(
        results=results,
        recipe=recipe,
        arms=[arm | {"colour": ARM_COLOURS[place % len(ARM_COLOURS)]} for place, arm in enumerate(results["arms"])],
        baseline=results["arms"][0],
        figures={name: jinja2.filters.Markup(svg) for name, svg in figures(results).items()},
        pictures=_pictures(results),
        branches=_branches(results),
        false_alarm=1 - 0.95 ** len(results["verdict"]["lines"]),
    )


def _pictures(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of pictures: the images, then every map of every arm under them."""
    images = results["images"]
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
            sought = "more" if share["negative", "distractors"] > chance["distractors"] else "less"
            lines.append(
                f"{arm['name']}: the positive branch put {share['positive', 'target']:.0%} of its attention on the target and the negative one "
                f"{share['negative', 'target']:.0%}; on the distractors {share['positive', 'distractors']:.0%} and {share['negative', 'distractors']:.0%}, "
                f"where looking everywhere alike gives {chance['distractors']:.0%}. So the negative branch looked at what distracts {sought} than chance does."
            )
    return lines


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
