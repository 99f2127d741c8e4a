"""Differential attention: two maps and their difference."""

import torch
from matplotlib.figure import Figure

from foveal.functional import differential_attention_maps

from ._style import GRID, PATCH, figure, mark, panels, patches, photograph, sharp, show_image, show_map

QUERY = (21, 19)


@figure
def differential() -> Figure:
    """The first pair reads all that is known of a patch, the second its mean color alone; the difference is what color does not explain."""
    x, color = patches(), patches()[..., :3]
    q, q_neg = sharp(x), sharp(color)
    maps = differential_attention_maps(q, q, q_neg=q_neg, k_neg=q_neg, lambdas=torch.tensor(0.5))
    drawing, axes = panels(1, 4)
    show_image(axes[0, 0], photograph(), "a query")
    mark(axes[0, 0], QUERY[0] * PATCH, QUERY[1] * PATCH, PATCH, PATCH)
    titles = {"positive": "softmax(Q₁K₁ᵀ)", "negative": "softmax(Q₂K₂ᵀ)", "combined": "difference, λ = 0.5"}
    for ax, (name, title) in zip(axes[0, 1:], titles.items(), strict=True):
        show_map(ax, maps[name][0, 0, QUERY[0] * GRID + QUERY[1]].unflatten(0, (GRID, GRID)), title, signed=name == "combined")
        mark(ax, *QUERY)
    return drawing
