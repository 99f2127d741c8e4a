"""The picture that shows copies: drawn images above the training images nearest to them, and these distances beside those of test images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import DataBundle
from ._figures import DRAWN, GRAY, INK, REAL, bare, new_figure, put, scale_of
from ._image_grid import GAP, mosaic
from .generation_metrics import FeatureNetwork, Memorization, describe, memorization
from .generation_metrics._real import searched

__all__ = ["draw_nearest"]

_SHOWN = 8
"""Drawn images beside their nearest."""
_JUDGED = 60
"""Images whose nearest is sought."""


def draw_nearest(draw: Callable[[Sequence[int]], Tensor], bundle: DataBundle, folder: Path, network: FeatureNetwork | None = None) -> Path:
    """``nearest.png``: by their pixels, and below by the features of a network where there is one."""
    train = searched(bundle.train)
    # a split may lie in the order of its classes
    step = max(1, len(bundle.test) // _JUDGED)
    test = torch.stack([bundle.test[place][0] for place in range(0, len(bundle.test), step)][:_JUDGED])
    kinds = max(len(bundle.classes), 1)
    drawn = draw([place % kinds for place in range(_JUDGED)])
    found = {"pixels": memorization(drawn, train, test)}
    if network is not None:
        found["features"] = memorization(*(describe(network, images).features for images in (drawn, train, test)))
    figure = new_figure((11, 0.5 + 2.9 * len(found)))
    rows = figure.subplots(len(found), 2, width_ratios=(3, 2), squeeze=False)
    for (left, right), (by, copies) in zip(rows, found.items(), strict=True):
        _pairs(left, drawn[:_SHOWN], train, copies, by)
        _distances(right, copies, by)
    said = " and ".join(f"by {by} {int(copies.near.sum())}" for by, copies in found.items())
    figure.suptitle(f"Of {len(drawn)} drawn images, nearer to one of {len(train):,} training images than 99 of 100 test images: {said}", fontsize=11, color=INK)
    return put(figure, folder / "nearest.png")


def _pairs(axes: Any, drawn: Tensor, train: Tensor, copies: Memorization, by: str) -> None:
    scale = scale_of(drawn.shape[-2])
    height, width = (scale * side for side in drawn.shape[-2:])
    near = [train[int(place)] for place in copies.places[: len(drawn)]]
    axes.imshow(mosaic([list(drawn), near], len(drawn), scale=scale), interpolation="nearest")
    bare(axes)
    axes.set_yticks([height / 2, 1.5 * height + GAP], ["drawn", "nearest"], fontsize=9)
    places = [(width + GAP) * n + width / 2 for n in range(len(drawn))]
    axes.set_xticks(places, [f"{value:.2f}" for value in copies.drawn[: len(drawn)]], fontsize=9, color=GRAY)
    axes.set_title(f"by {by}, and the distance", fontsize=9, color=GRAY, loc="left")


def _distances(axes: Any, copies: Memorization, by: str) -> None:
    bins = np.linspace(0, 1.05 * float(torch.cat([copies.drawn, copies.test]).max()) + 1e-6, 25)
    for distances, color, name in ((copies.drawn, DRAWN, "drawn"), (copies.test, REAL, "test images")):
        axes.hist(distances.numpy(), bins, color=color, alpha=0.55, label=name)
    axes.axvline(copies.limit, color=GRAY, linestyle=":", linewidth=1)
    axes.set_xlabel(f"RMS distance to the nearest training image, by {by}", fontsize=9)
    axes.set_ylabel("images", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="upper left")
