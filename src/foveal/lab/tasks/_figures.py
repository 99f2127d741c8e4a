"""Figures of reports without a window: how they are made, and put into place whole."""

import io
from pathlib import Path
from typing import Any

from ..._files import replace_file

__all__ = ["DRAWN", "GRAY", "INK", "REAL", "bare", "new_figure", "put", "scale_of"]

INK, GRAY, DRAWN, REAL = "#24292f", "#57606a", "#d1495b", "#30638e"
_DPI = 110


def scale_of(height: int) -> int:
    """By how much small images are enlarged, so that the gaps between them are narrow beside them."""
    return max(1, 32 // height)


def new_figure(inches: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Any) -> None:
    """Without ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def put(figure: Any, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    replace_file(path, content.getvalue())
    return path
