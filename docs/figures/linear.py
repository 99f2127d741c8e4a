"""The linear attention mechanism: weights that cannot leave a narrow band."""

from matplotlib.figure import Figure

from foveal.functional import efficient_attention_map, linear_attention_map, softmax_attention_map

from ._style import BLUE, GRID, MUTED, PATCH, RED, figure, mark, panels, patches, photograph, sharp, show_image, show_map

QUERY = (21, 19)


@figure
def linear() -> Figure:
    """The map of one query, and its weights, sorted, beside those that softmax and efficient attention give it on the same queries and keys."""
    x = sharp(patches())
    place = QUERY[0] * GRID + QUERY[1]
    tokens = GRID * GRID
    maps = {
        "softmax": (softmax_attention_map(x, x), MUTED),
        "efficient": (efficient_attention_map(x, x), BLUE),
        "linear": (linear_attention_map(x, x), RED),
    }
    drawing, axes = panels(1, 4)
    show_image(axes[0, 0], photograph(), "a query")
    mark(axes[0, 0], QUERY[0] * PATCH, QUERY[1] * PATCH, PATCH, PATCH)
    for ax, name in zip(axes[0, 1:], ("softmax", "linear"), strict=False):
        show_map(ax, maps[name][0][0, 0, place].unflatten(0, (GRID, GRID)), f"its map: {name}")
        mark(ax, *QUERY)
    curves = axes[0, 3]
    for name, (attention, color) in maps.items():
        weights = tokens * attention[0, 0, place].sort(descending=True).values
        curves.semilogy(weights, color=color, linewidth=1.6, label=f"{name}, ≤ {float(weights[0]):.1f}")
    direction = x[0, 0] / x[0, 0].norm(dim=-1, keepdim=True)
    bound = 2 / (1 + direction[place] @ direction.mean(0))
    curves.axhline(bound, color=RED, linestyle=":", linewidth=1)
    curves.set(title="N × weight, keys sorted", xticks=[0, 250, 500], ylim=(1e-4, 30))
    curves.legend(fontsize=8, handlelength=1.2, loc="lower left", frameon=True, framealpha=0.9, edgecolor="white")
    return drawing
