"""``run.html``: one file that says how a fine-tuning went, made of its run alone."""

import io
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ..._errors import missing_extra
from ...analysis import cost
from ...analysis.pictures import overlay, to_pixels
from ..training import load_run
from ..training.checkpoint import replace_file
from ..training.models import build_alike
from ..training.reading import read_history, read_object
from ._judged import Judged, Reliability, judged, looked_at, reliability

__all__ = ["write_page"]

_SHOWN, _MOST_CLASSES = 6, 30
_STYLE: Any = {
    **{"font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False},
    **{"svg.fonttype": "path", "svg.hashsalt": "foveal"},
}


def write_page(run: Path) -> Path:
    """The page of a finished run of :func:`fine_tune`; its path.

    Curves, confusion matrix, reliability diagram, the images that went best and worst with their maps, costs before and after conversion, and its report.

    Raises:
        ValueError: no finished run; jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        from scipy.stats import binomtest
    except ImportError as error:
        raise missing_extra("jinja2", "compare", "the page of a run") from error
    recipe, bundle, model = load_run(run)
    metrics, history = read_object(run / "metrics.json"), read_history(run / "history.jsonl")
    split = bundle.val if metrics["split"] == "val" else bundle.test
    found = judged(model, split, bundle)
    sure = reliability(found)
    size: Any = (bundle.in_chans, bundle.img_size, bundle.img_size)
    plain = build_alike(replace(recipe, model=recipe.model.plain()), bundle, run)
    best, worst, about_maps = _pictures(model, split, bundle, found)
    drawn = _figures(history, found, sure, bundle.classes)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("foveal.lab.finetuning").joinpath("run.html.j2").read_text(encoding="utf8"))
    judges = {"val": "validation", "test": "test"}[metrics["split"]]
    text = template.render(
        run=str(run),
        recipe=recipe.to_dict(),
        metrics=metrics,
        judges=judges,
        hits=found.hits,
        images=len(found.labels),
        interval=[100 * bound for bound in binomtest(found.hits, len(found.labels)).proportion_ci(method="wilson")],
        counts={"train": len(bundle.train), "validation": len(bundle.val)} | ({"test": len(bundle.test)} if judges == "test" else {}),
        classes=bundle.classes,
        sure=sure,
        costs=[("as it came", cost(plain, size)), ("as it is now", cost(model, size))],
        report=model.conversion.table() if model.conversion.swaps else "",
        best=best,
        worst=worst,
        about_maps=about_maps,
        figures={name: jinja2.filters.Markup(svg) for name, svg in drawn.items()},
    )
    replace_file(run / "run.html", text.encode(errors="backslashreplace"))
    return run / "run.html"


def _pictures(model: Any, split: Any, bundle: Any, found: Judged) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """The images of largest and least probability of their own class."""
    of_truth = found.probabilities.gather(1, found.labels[:, None])[:, 0]
    order = of_truth.argsort(stable=True).tolist()
    worst = order[: min(_SHOWN, len(order) // 2)]
    best = [index for index in reversed(order) if index not in worst][:_SHOWN]
    chosen = torch.stack([split[index][0] for index in [*best, *worst]])
    maps, about = looked_at(model, chosen.to(next(model.parameters()).device))
    cells = []
    for place, index in enumerate([*best, *worst]):
        pixels = to_pixels(chosen[place])
        answer = int(found.probabilities[index].argmax())
        cells.append(
            {
                "picture": overlay(pixels),
                "map": None if maps is None else overlay(pixels, maps[place].double().cpu().numpy()),
                "truth": bundle.classes[int(found.labels[index])],
                "answer": bundle.classes[answer],
                "probability": f"{of_truth[index]:.0%}",
                "wrong": answer != int(found.labels[index]),
            }
        )
    return cells[: len(best)], cells[len(best) :], about


def _figures(history: list[dict[str, Any]], found: Judged, sure: Reliability, classes: list[str]) -> dict[str, str]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "compare", "the page of a run") from error
    with matplotlib.rc_context(_STYLE):
        curves = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = curves.subplots(1, 2)
        steps = [entry["step"] for entry in history]
        left.plot(steps, [entry["train_loss"] for entry in history], "o-", markersize=3, label="training (smoothed, augmented)")
        left.plot(steps, [entry["val_loss"] for entry in history], "s--", markersize=3, label="validation")
        left.set(xlabel="step", ylabel="loss")
        # above, where no curve goes
        left.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        right.plot(steps, [100 * entry["val_accuracy"] for entry in history], "s--", markersize=3, color="tab:orange")
        right.set(xlabel="step", ylabel="validation accuracy, %")
        reliable = Figure(figsize=(4.4, 4.0), layout="constrained")
        axes = reliable.subplots()
        axes.plot([0, 1], [0, 1], color="gray", linewidth=1)
        axes.scatter(sure.certainty, sure.accuracy, s=[20 + 180 * count / sum(sure.counts) for count in sure.counts], alpha=0.7)
        axes.set(xlabel="certainty (probability of the answer)", ylabel="share of right answers", xlim=(0, 1.02), ylim=(-0.02, 1.02))
        out = {"curves": _svg(curves), "reliability": _svg(reliable)}
        if len(classes) <= _MOST_CLASSES:
            out["confusion"] = _svg(_confusion(Figure, found, classes))
        return out


def _confusion(figure_class: Any, found: Judged, classes: list[str]) -> Any:
    side = max(3.6, 0.42 * len(classes) + 1.6)
    figure = figure_class(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = found.confusion / found.confusion.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(classes)):
        for column in range(len(classes)):
            if count := int(found.confusion[row, column]):
                axes.text(column, row, str(count), ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black", fontsize=9)
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=60, ha="right")
    axes.set_yticks(places, classes)
    axes.set(xlabel="answer", ylabel="truth")
    return figure


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
