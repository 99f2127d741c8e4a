"""What the figures share: how they look, the scene that most of them look at, and how a map over it is drawn."""

from collections.abc import Callable
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_sample_image
from torch import Tensor

from foveal.lab.data import ClutteredDigits

Draw = Callable[[], Figure]
FIGURES: dict[str, Draw] = {}

INK, MUTED, FAINT = "#24292f", "#57606a", "#d0d7de"
# Okabe and Ito's palette, which color-blind readers can tell apart
BLUE, RED, GREEN, PINK, AMBER, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titlecolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#eceff3",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
PATCH, GRID = 16, 24
"""Side of a patch of the photograph in pixels, and of the photograph in patches."""

MARKED = "#ff3b8d"
"""The query, wherever one is marked."""


def figure(draw: Draw) -> Draw:
    """Enter a function as the figure of its name."""
    FIGURES[draw.__name__] = draw
    return draw


def panels(rows: int, columns: int, *, side: float = 2.0, **options: Any) -> tuple[Figure, np.ndarray]:
    """Square panels for maps; always a 2-D array of them."""
    return plt.subplots(rows, columns, figsize=(side * columns, side * rows * 1.12), squeeze=False, layout="constrained", **options)


@cache
def _scenes() -> Any:
    return ClutteredDigits(digit=16, cells=3, train_scenes=1, val_scenes=1, test_scenes=40, noise=0.04).load().test


def scene(index: int = 1) -> Tensor:
    """A test scene of cluttered digits, ``(48, 48)`` from 0 to 1: the bright digit is the target, the dimmer ones distract."""
    image = _scenes()[index][0][0]
    return (image - image.min()) / (image.max() - image.min())


@cache
def photograph() -> Tensor:
    """A square out of scikit-learn's ``china.jpg``, ``(384, 384, 3)`` from 0 to 1. By danielbuechele, CC BY 2.0: captions say so."""
    return torch.tensor(load_sample_image("china.jpg")[20:404, 130:514]) / 255


@cache
def patches(side: int = PATCH) -> Tensor:
    """What the photograph's patches look like, ``(1, 1, N, 10)``: color, its spread, and how strong edges of four directions are; each of variance 1."""
    return looks(photograph(), side)


def looks(photo: Tensor, side: int = PATCH) -> Tensor:
    """The same of another photograph, ``(H, W, 3)`` from 0 to 1."""
    image = photo.permute(2, 0, 1)
    gray = F.pad(image.mean(0), (1, 1, 1, 1), mode="constant", value=0.5)
    center = gray[1:-1, 1:-1]
    edges = torch.stack([gray[1:-1, 2:] - center, gray[2:, 1:-1] - center, gray[2:, 2:] - center, gray[2:, :-2] - center]).abs()
    cut = torch.cat([image, edges]).unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    found = torch.cat([cut.mean((-3, -1)), cut[:3].std((-3, -1))]).flatten(1).mT
    return ((found - found.mean(0)) / found.std(0))[None, None]


def sharp(features: Tensor, strength: float = 1.0) -> Tensor:
    """Features by which like finds like: queries and keys of so much length that softmax attention, which divides by √width, becomes selective."""
    return F.normalize(features, dim=-1) * (strength * features.shape[-1]) ** 0.5 * features.shape[-1] ** 0.25


def show_image(axes: Axes, image: Tensor, title: str = "") -> None:
    """``(H, W)`` or ``(H, W, 3)`` from 0 to 1."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _bare(axes, title)


def show_map(axes: Axes, values: Tensor, title: str = "", *, signed: bool = False, top: float | None = None, cmap: str | None = None) -> Any:
    """A map over places, ``(h, w)``: dark to bright, or blue (against) over white to red (for)."""
    top = float(values.abs().max()) if top is None else top
    if signed:
        drawn = axes.imshow(values, cmap=cmap or "RdBu_r", norm=TwoSlopeNorm(0, -top, top), interpolation="nearest")
    else:
        drawn = axes.imshow(values, cmap=cmap or "inferno", vmin=0, vmax=top, interpolation="nearest")
    _bare(axes, title)
    return drawn


def mark(axes: Axes, row: float, column: float, height: float = 1, width: float = 1, color: str = MARKED, **style: Any) -> None:
    """A frame around a place, in the units of the picture."""
    style = {"linewidth": 1.8} | style
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), width, height, fill=False, edgecolor=color, **style))


def _bare(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title)
