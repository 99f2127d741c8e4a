"""Causal attention: a map, its complement, and what is left of both in their sum."""

from matplotlib.figure import Figure

from foveal.functional import causal_attention_maps

from ._style import GRID, PATCH, figure, mark, panels, patches, photograph, sharp, show_image, show_map

QUERY = (21, 19)


@figure
def causal() -> Figure:
    """One query: what it weighs most, what its negation weighs most, and their sum beside the even map that it would be to first order."""
    x = sharp(patches())
    maps = causal_attention_maps(x, x)
    tokens = GRID * GRID
    shown = [("A", maps["positive"], False), ("Ā", maps["negative"], False), ("N (A + Ā) − 2", tokens * maps["combined"] - 2, True)]
    drawing, axes = panels(1, 4)
    show_image(axes[0, 0], photograph(), "a query")
    mark(axes[0, 0], QUERY[0] * PATCH, QUERY[1] * PATCH, PATCH, PATCH)
    for ax, (title, attention, signed) in zip(axes[0, 1:], shown, strict=True):
        show_map(ax, attention[0, 0, QUERY[0] * GRID + QUERY[1]].unflatten(0, (GRID, GRID)), title, signed=signed)
        mark(ax, *QUERY)
    return drawing
