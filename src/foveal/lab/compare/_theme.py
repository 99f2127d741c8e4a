"""Figures as SVG in the colors of the page: each is a variable of the page's style, so that one figure fits light, dark and paper."""

import io
import re
from typing import Any

from matplotlib.figure import Figure

from ._colors import ARM_COLORS

__all__ = ["ARM_DARK", "GRID", "INK", "LINE", "SOFT", "STYLE", "VERDICT_COLORS", "css_colors", "svg"]

INK, SOFT, LINE, GRID = "#24292f", "#57606a", "#c9ced6", "#eceff3"
VERDICT_COLORS = {"better": "#116329", "worse": "#b42318", "equal": "#0550ae", "not settled": "#6e7781", "one seed": "#6e7781"}
_DARK = {
    INK: "#e6edf3",
    SOFT: "#a5aeb8",
    LINE: "#4a525c",
    GRID: "#2b3138",
    "#116329": "#4ac26b",
    "#b42318": "#ff8b7b",
    "#0550ae": "#79b8ff",
    "#6e7781": "#9aa4af",
}
ARM_DARK = ("#b0b7bf", "#58a6e6", "#ff9248", "#3fcfa0", "#e7a3cb", "#f5c04a", "#8ed0f7", "#c9a766", "#ff8b7b")
"""The colors of variants on dark paper, of at least 6 : 1 against it."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def _pairs() -> dict[str, str]:
    return {**_DARK, **dict(zip(ARM_COLORS, ARM_DARK, strict=True))}


def css_colors(*, dark: bool) -> str:
    """The variables that :func:`svg` draws with, as declarations of CSS."""
    return " ".join(f"--c{light[1:]}: {deep if dark else light};" for light, deep in _pairs().items())


def svg(figure: Figure) -> str:
    """An element of a page, with the page's fonts and colors."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    known = _pairs()
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--c{found[0][1:]})" if found[0] in known else found[0], text)
    return text[text.index("<svg") :]
