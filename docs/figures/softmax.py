"""Softmax attention, and the five families beside it."""

import torch
from matplotlib.figure import Figure

from foveal.functional import (
    causal_attention_maps,
    denoising_attention_maps,
    efficient_attention_map,
    external_token_map,
    halo_attention_map,
    linear_attention_map,
    softmax_attention_map,
)

from ._style import GRID, PATCH, figure, mark, panels, patches, photograph, sharp, show_image, show_map

QUERY, AGAINST = (21, 19), (15, 6)


@figure
def families() -> Figure:
    """One query in one photograph, and what each family takes from where. Queries and keys are what a patch looks like: nothing here is trained."""
    x = sharp(patches())
    place, other = (row * GRID + column for row, column in (QUERY, AGAINST))
    # the negative branch asks for what looks like another place
    signed = denoising_attention_maps(x, x, q_neg=-x[..., other : other + 1, :].expand_as(x), lambdas=torch.tensor([0.5]))["combined"]
    # external attention does not divide its logits by √width
    slots = x[0, 0, torch.randperm(x.shape[-2])[:16]] / x.shape[-1] ** 0.5
    grid = x.unflatten(-2, (GRID, GRID))
    near = halo_attention_map(grid, grid, rel_height=torch.zeros(21, 10), rel_width=torch.zeros(21, 10), block_size=8, halo_size=3)
    shown = [
        ("softmax", softmax_attention_map(x, x)),
        ("denoising", signed),
        ("external", external_token_map(x, slots)),
        ("efficient", efficient_attention_map(x, x)),
        ("linear", linear_attention_map(x, x)),
        ("halo", near),
        ("causal, complement", causal_attention_maps(x, x)["negative"]),
    ]
    drawing, axes = panels(2, 4)
    show_image(axes[0, 0], photograph(), "a query")
    mark(axes[0, 0], QUERY[0] * PATCH, QUERY[1] * PATCH, PATCH, PATCH)
    for ax, (title, attention) in zip(axes.flat[1:], shown, strict=True):
        show_map(ax, attention[0, 0, place].unflatten(0, (GRID, GRID)), title, signed=title == "denoising")
        mark(ax, *QUERY)
    return drawing


@figure
def softmax() -> Figure:
    """Three queries and their maps."""
    x = sharp(patches())
    attention = softmax_attention_map(x, x)[0, 0]
    drawing, axes = panels(1, 4)
    show_image(axes[0, 0], photograph())
    for ax, (row, column) in zip(axes[0, 1:], [(10, 19), (17, 6), QUERY], strict=True):
        mark(axes[0, 0], row * PATCH, column * PATCH, PATCH, PATCH)
        show_map(ax, attention[row * GRID + column].unflatten(0, (GRID, GRID)))
        mark(ax, row, column)
    return drawing
