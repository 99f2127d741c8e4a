"""Efficient attention: a query mixes a few maps that all queries share."""

import torch
from matplotlib.figure import Figure

from foveal.functional import efficient_attention_map, softmax_attention_map

from ._style import BLUE, GRID, MUTED, PATCH, RED, figure, mark, panels, patches, photograph, sharp, show_image, show_map

QUERY = (21, 19)


@figure
def efficient() -> Figure:
    """Above: three of the ten maps, one for each channel of the keys. Below: the mixture that one query chooses, its map, and the rank of the whole map."""
    x = sharp(patches())
    place = QUERY[0] * GRID + QUERY[1]
    channels = x[0, 0].softmax(dim=-2)
    takes = x[0, 0, place].softmax(dim=-1)
    attention = efficient_attention_map(x, x)[0, 0]
    torch.testing.assert_close(attention[place], channels @ takes)
    drawing, axes = panels(2, 4)
    show_image(axes[0, 0], photograph(), "a query")
    mark(axes[0, 0], QUERY[0] * PATCH, QUERY[1] * PATCH, PATCH, PATCH)
    for ax, channel in zip(axes[0, 1:], takes.argsort(descending=True)[:3], strict=True):
        show_map(ax, channels[:, channel].unflatten(0, (GRID, GRID)), f"key channel {int(channel)}")

    bars, shown, signed, spectrum = axes[1]
    bars.bar(range(len(takes)), takes, color=BLUE)
    bars.set(title="its mixture of channels", xticks=range(0, len(takes), 3), yticks=[0, 0.1, 0.2])
    show_map(shown, attention[place].unflatten(0, (GRID, GRID)), "its map")
    scaling = efficient_attention_map(x, x, normalization="scaling")[0, 0, place]
    show_map(signed, scaling.unflatten(0, (GRID, GRID)), "its map under scaling", signed=True)
    for ax in (shown, signed):
        mark(ax, *QUERY)
    for values, color, name in ((softmax_attention_map(x, x)[0, 0], MUTED, "softmax"), (attention, RED, "efficient")):
        spectrum.semilogy(range(1, 31), torch.linalg.svdvals(values.double())[:30], color=color, marker=".", markersize=3, linewidth=1, label=name)
    spectrum.set(title="singular values", xticks=[1, 10, 20, 30], ylim=(1e-8, 40))
    spectrum.legend()
    return drawing
