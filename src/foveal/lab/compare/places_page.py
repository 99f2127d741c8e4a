"""The section of a report on places, and what its page says of how a pretrained network was trained."""

from importlib.resources import files
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from ._colors import ARM_COLORS
from ._theme import INK, STYLE, svg
from .places import AT, Variant, answer, has_places, interval, order_words, ranked, shown, variants
from .words import sample_name

__all__ = ["how_trained", "places_section"]


def places_section(results: dict[str, Any]) -> str:
    """HTML; empty where the comparison is not one of places."""
    if not has_places(results):
        return ""
    metric, found = results["metric"], variants(results)
    places = ranked(found, results["task"]["test_images"])
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"points": lambda value: shown(value, metric), "share": lambda value: f"{100 * value:+.1f}".replace("-", "−")}
    environment.globals |= {"interval": lambda value: interval(value, metric)}
    template = environment.from_string(files("foveal.lab.compare").joinpath("places.html.j2").read_text(encoding="utf8"))
    with matplotlib.rc_context(STYLE):
        drawn = svg(_figure(found, metric))
    return template.render(
        answer=answer(found, results),
        order=order_words(places),
        places=places,
        variants=found,
        metric=metric,
        figure=jinja2.filters.Markup(drawn),
    )


def how_trained(results: dict[str, Any]) -> str:
    """What all runs have in common."""
    recipe = results["plan"]["recipe"]
    model = recipe["model"]
    if model.get("kind") != "Pretrained":
        return (
            f"Each attention sits in the same network, {results['about_model']}, and was trained from scratch on the same {sample_name(results)}s, "
            "in the same order, for the same number of steps, from the same initial weights as far as it has the same weights"
        )
    frozen = "" if model["freeze"] == "nothing" else f" What learns: {model['freeze']} is the freezing."
    lora = f" Low-rank adapters of rank {model['lora']} learn in the place of its weights." if model["lora"] else ""
    return (
        f"{model['library']}:{model['name']}, weights {model['weights']}, was fine-tuned as it is and with each attention at each place, on the same "
        f"images, in the same order, for the same {recipe['steps']} steps of {recipe['batch_size']}, from the same weights as far as they are kept, with the "
        f"same new head. The weights of the last step are judged, on images by which nothing was chosen.{frozen}{lora}".rstrip(".")
    )


def _figure(found: list[Variant], metric: dict[str, Any]) -> Figure:
    """A row a variant: its gain, and beside it what it costs."""
    attentions = list(dict.fromkeys(one.attention for one in found))
    colors = {name: ARM_COLORS[1 + place % (len(ARM_COLORS) - 1)] for place, name in enumerate(attentions)}
    figure = Figure(figsize=(9, 0.34 * len(found) + 1.1), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    for row, one in enumerate(found):
        color = ARM_COLORS[0] if one.control else colors[one.attention]
        if one.gain.low is not None and one.gain.high is not None:
            left.plot([metric["scale"] * one.gain.low, metric["scale"] * one.gain.high], [row, row], color=color, linewidth=2.5, solid_capstyle="round")
        left.plot([metric["scale"] * value for value in one.by_seed], [row] * len(one.by_seed), "o", color=color, markersize=3.5, alpha=0.5)
        left.plot([metric["scale"] * one.gain.mean], [row], "o", color=color, markersize=8)
        right.barh(row, 100 * one.macs, color=color, height=0.55)
    for axes in (left, right):
        axes.axvline(0, color=INK, linewidth=1)
        axes.grid(axis="y", visible=False)
    left.set_yticks(range(len(found)), [one.name.replace(AT, " @ ") for one in found])
    left.set_ylim(len(found) - 0.4, -0.6)
    left.tick_params(axis="y", length=0)
    left.set_xlabel(f"gain on the network as it is, {metric['step']}")
    right.set_xlabel("multiply-adds, % more")
    return figure
