"""Halo attention: blocks, windows, and what happens at the border."""

import torch
from matplotlib.figure import Figure

from foveal import HaloAttention2d
from foveal.functional import halo_attention_map

from ._style import AMBER, GRID, PATCH, figure, mark, panels, patches, photograph, sharp, show_image, show_map

BLOCK, HALO = 8, 3
# one in the middle, one at the border, one in a corner
QUERIES = ((12, 13), (4, 18), (21, 5))


@figure
def halo() -> Figure:
    """Blocks of a map and the window of one; three queries and all that they see; the output of a constant map, borders masked and not."""
    x = sharp(patches()).unflatten(-2, (GRID, GRID))
    rows = 2 * BLOCK + 2 * HALO - 1
    tables = torch.zeros(rows, x.shape[-1])
    attention = halo_attention_map(x, x, rel_height=tables, rel_width=tables, block_size=BLOCK, halo_size=HALO)[0, 0]
    drawing, axes = panels(1, 4)
    show_image(axes[0, 0], photograph(), "blocks, and a window")
    for line in range(BLOCK, GRID, BLOCK):
        for draw in (axes[0, 0].axhline, axes[0, 0].axvline):
            draw(line * PATCH - 0.5, color="white", linewidth=0.8)
    mark(axes[0, 0], BLOCK * PATCH, BLOCK * PATCH, BLOCK * PATCH, BLOCK * PATCH)
    start, side = (BLOCK - HALO) * PATCH, (BLOCK + 2 * HALO) * PATCH
    mark(axes[0, 0], start, start, side, side, AMBER, linestyle="--")

    seen = torch.stack([attention[row * GRID + column] / attention[row * GRID + column].max() for row, column in QUERIES]).amax(0)
    show_map(axes[0, 1], seen.unflatten(0, (GRID, GRID)), "three queries see")
    for row, column in QUERIES:
        mark(axes[0, 1], row, column)
        top, left = (max(0, at // BLOCK * BLOCK - HALO) for at in (row, column))
        bottom, right = (min(GRID, at // BLOCK * BLOCK + BLOCK + HALO) for at in (row, column))
        mark(axes[0, 1], top, left, bottom - top, right - left, AMBER, linestyle="--", linewidth=1.2)

    for ax, masked in zip(axes[0, 2:], (True, False), strict=True):
        torch.manual_seed(0)
        module = HaloAttention2d(32, num_heads=4, block_size=BLOCK, halo_size=HALO, mask_border=masked)
        out = module(torch.ones(1, 32, GRID, GRID))[0]
        relative = (out / out[:, GRID // 2, GRID // 2, None, None]).mean(0)
        show_map(ax, relative, f"{'masked' if masked else 'zeros'}: corner {float(relative[0, 0]):.2f}", top=1.0, cmap="viridis")
    return drawing
