"""The picture of how drawn images are judged: every number beside what real images get."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._figures import DRAWN, INK, REAL, new_figure, put

__all__ = ["SHOWN", "draw_quality"]

SHOWN = {
    "frechet": ("Fréchet distance", "_floor", "smaller is better"),
    "kernel": ("kernel distance", "_floor", "smaller is better"),
    "precision": ("precision", "_real", "share of drawn images among real ones"),
    "recall": ("recall", "_real", "share of real images among drawn ones"),
    "inception_score": ("score of the classifier", "_real", "1 to the number of classes"),
    "class_accuracy": ("class accuracy", "_real", "share that is taken for its class"),
}
"""Of each number its title, how the name of that of real images ends, and how it is read."""


def draw_quality(numbers: Mapping[str, Any], folder: Path, distance_name: str) -> list[Path]:
    """``quality.png``; none where drawn images were not judged.

    Args:
        numbers: of :func:`foveal.lab.tasks.generation_metrics.assess`.
        folder: where to.
        distance_name: of the Fréchet distance, which says whose features were compared.
    """
    shown = {name: words for name, words in SHOWN.items() if name in numbers}
    if not shown:
        return []
    figure = new_figure((2.2 * max(len(shown), 3), 2.7))
    for axes, (name, (title, other, about)) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        values = [numbers[name], numbers[f"{name}{other}"]]
        bars = axes.bar(["drawn", "real"], values, color=[DRAWN, REAL], width=0.6)
        axes.bar_label(bars, [f"{value:.3g}" for value in values], fontsize=9, padding=2)
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_xlabel(about, fontsize=7)
        axes.margins(y=0.18)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    copies = ", ".join(f"{numbers[f'copies_{by}']:.1%} by {by}" for by in ("features", "pixels"))
    title = f"{numbers['judged_samples']} drawn and as many training images, each held against as many of the test; {distance_name}"
    figure.suptitle(f"{title}\nnearer to a training image than 99 of 100 test images: {copies} (1 % where nothing is copied)", fontsize=9, color=INK)
    return [put(figure, folder / "quality.png")]
