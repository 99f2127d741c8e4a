"""External attention: slots, and who learns of whom through them."""

from typing import get_args

import torch
from matplotlib.figure import Figure

from foveal.functional import external_attention_map
from foveal.functional.external import ExternalNorm

from ._style import GRID, PATCH, figure, mark, panels, patches, photograph, sharp, show_image, show_map

SLOTS = 16
CHANGED = (slice(17, 24), slice(14, 24))


@figure
def external() -> Figure:
    """Above: what three of the slots hold. Below: some patches are taken away, and how much the maps of all other patches change, by normalization."""
    x = sharp(patches())
    slots = x[0, 0, torch.randperm(x.shape[-2])[:SLOTS]] / x.shape[-1] ** 0.5
    drawing, axes = panels(2, 4)
    show_image(axes[0, 0], photograph(), "the tokens")
    takes = external_attention_map(x, slots)[0, 0].unflatten(0, (GRID, GRID))
    busiest = takes.amax((0, 1)).argsort(descending=True)[:3]
    for ax, slot in zip(axes[0, 1:], busiest, strict=True):
        show_map(ax, takes[..., slot], f"taken from slot {int(slot)}", top=1.0)

    here = torch.ones(GRID, GRID, dtype=torch.bool)
    here[CHANGED] = False
    image = photograph().clone()
    rows, columns = (slice(part.start * PATCH, part.stop * PATCH) for part in CHANGED)
    image[rows, columns] = 0.93
    show_image(axes[1, 0], image, "some taken away")
    change = {}
    for norm in get_args(ExternalNorm):
        full = external_attention_map(x, slots, normalization=norm)
        left = external_attention_map(x, slots, normalization=norm, mask=here.flatten()[None])
        change[norm] = ((full - left).abs().sum(-1) / full.sum(-1))[0, 0].unflatten(0, (GRID, GRID)) * here
    for ax, (norm, values) in zip(axes[1, 1:], change.items(), strict=True):
        show_map(ax, values, f"{norm}: {float(values[here].mean()):.1%} changes", top=0.5)
        mark(ax, CHANGED[0].start, CHANGED[1].start, 7, 10, "white", linewidth=1)
    return drawing
