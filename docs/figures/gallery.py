"""Every registered attention on one photograph, and one query: what it takes from where."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image
from torch import Tensor

import foveal
from foveal.functional import (
    causal_attention_maps,
    channel_linear_attention_map,
    cross_sample_attention_maps,
    denoising_attention_maps,
    differential_attention_maps,
    efficient_attention_map,
    external_attention_map,
    external_token_map,
    halo_attention_map,
    linear_attention_map,
    softmax_attention_map,
)

from ._style import GRID, PATCH, figure, looks, mark, panels, patches, photograph, sharp, show_image, show_map

QUERY, AGAINST = (21, 19), (15, 6)
FINE = PATCH // 2
"""Patches of half the side: attentions on feature maps are put where maps are large."""


class Shown(NamedTuple):
    """A picture of what the query takes."""

    title: str
    weights: Tensor
    """``(h, w)``."""
    signed: bool = False
    marked: bool = True
    """Whether the query lies in it."""


SHOWS: dict[str, Callable[[], Shown]] = {}


def shows(name: str) -> Callable[[Callable[[], Shown]], Callable[[], Shown]]:
    def enter(draw: Callable[[], Shown]) -> Callable[[], Shown]:
        SHOWS[name] = draw
        return draw

    return enter


def _at(attention: Tensor, fine: bool = False) -> Tensor:
    """The row of the query, over the grid."""
    side, (row, column) = (2 * GRID, tuple(2 * place for place in QUERY)) if fine else (GRID, QUERY)
    return attention[0, 0, row * side + column].unflatten(0, (side, side))


def _coarse() -> Tensor:
    return sharp(patches())


def _fine() -> Tensor:
    return sharp(patches(FINE))


@shows("softmax")
def _softmax() -> Shown:
    return Shown("what looks alike", _at(softmax_attention_map(_coarse(), _coarse())))


@shows("denoising")
def _denoising() -> Shown:
    x = _coarse()
    place = AGAINST[0] * GRID + AGAINST[1]
    maps = denoising_attention_maps(x, x, q_neg=-x[..., place : place + 1, :].expand_as(x), lambdas=torch.tensor([0.5]))
    return Shown("less the temple, λ = 0.5", _at(maps["combined"]), signed=True)


@shows("differential")
def _differential() -> Shown:
    color = sharp(patches()[..., :3])
    maps = differential_attention_maps(_coarse(), _coarse(), q_neg=color, k_neg=color, lambdas=torch.tensor(0.5))
    return Shown("less its color, λ = 0.5", _at(maps["combined"]), signed=True)


@shows("causal")
def _causal() -> Shown:
    return Shown("the complement", _at(causal_attention_maps(_coarse(), _coarse())["negative"]))


@shows("cross_sample")
def _cross_sample() -> Shown:
    other = sharp(looks(torch.tensor(load_sample_image("flower.jpg")[20:404, 130:514]) / 255))
    maps = cross_sample_attention_maps(_coarse(), _coarse(), dictionary_k=other)
    return Shown("in another photograph", _at(maps["dictionary"]), marked=False)


@shows("external")
def _external() -> Shown:
    x = _coarse()
    return Shown("through 16 slots", _at(external_token_map(x, _slots(x))))


@shows("external_2d")
def _external_2d() -> Shown:
    x = _fine()
    taken = external_attention_map(x, _slots(x))[0, 0].unflatten(0, (2 * GRID, 2 * GRID))
    slot = int(taken[2 * QUERY[0], 2 * QUERY[1]].argmax())
    return Shown("who has its slot", taken[..., slot])


@shows("efficient")
def _efficient() -> Shown:
    return Shown("through 10 channels", _at(efficient_attention_map(_coarse(), _coarse())))


@shows("efficient_2d")
def _efficient_2d() -> Shown:
    x = _fine()
    keys = x[0, 0].softmax(0).unflatten(0, (2 * GRID, 2 * GRID))
    channel = int(x[0, 0].unflatten(0, (2 * GRID, 2 * GRID))[2 * QUERY[0], 2 * QUERY[1]].argmax())
    return Shown("what its channel gathers", keys[..., channel])


@shows("linear")
def _linear() -> Shown:
    return Shown("1 + cosine", _at(linear_attention_map(_coarse(), _coarse())))


@shows("linear_2d")
def _linear_2d() -> Shown:
    return Shown("1 + cosine of pixels", _at(linear_attention_map(_fine(), _fine()), fine=True))


@shows("linear_channel_2d")
def _linear_channel_2d() -> Shown:
    channels = _fine().mT
    strongest = int(channels[0, 0].unflatten(1, (2 * GRID, 2 * GRID))[:, 2 * QUERY[0], 2 * QUERY[1]].argmax())
    mixed = (channel_linear_attention_map(channels) @ channels)[0, 0, strongest]
    return Shown("what its channel becomes", mixed.unflatten(0, (2 * GRID, 2 * GRID)), signed=True)


@shows("halo")
def _halo() -> Shown:
    return Shown("block of 8, halo of 3", _at(_near(_coarse(), GRID)))


@shows("halo_2d")
def _halo_2d() -> Shown:
    return Shown("the same, of pixels", _at(_near(_fine(), 2 * GRID), fine=True))


def _slots(x: Tensor) -> Tensor:
    # external attention does not divide its logits by √width
    return x[0, 0, torch.randperm(x.shape[-2], generator=torch.Generator().manual_seed(0))[:16]] / x.shape[-1] ** 0.5


def _near(x: Tensor, side: int) -> Tensor:
    grid, tables = x.unflatten(-2, (side, side)), torch.zeros(21, x.shape[-1])
    return halo_attention_map(grid, grid, rel_height=tables, rel_width=tables, block_size=8, halo_size=3)


@figure
def gallery() -> Figure:
    """Queries and keys are what a patch looks like; nothing is trained. All of them: an attention that is registered and not here is an error."""
    names = [name for family in foveal.attention.FAMILIES for name in foveal.list_attentions(family=family)]
    assert set(names) == set(SHOWS), f"of {set(names) ^ set(SHOWS)} there is no picture, or no attention"
    drawing, axes = panels(3, 5, side=2.1)
    show_image(axes[0, 0], photograph(), "a query")
    mark(axes[0, 0], QUERY[0] * PATCH, QUERY[1] * PATCH, PATCH, PATCH)
    for ax, name in zip(axes.flat[1:], names, strict=True):
        shown = SHOWS[name]()
        show_map(ax, shown.weights, f"{name}\n{shown.title}", signed=shown.signed)
        ax.title.set_fontsize(9.5)
        scale = len(shown.weights) // GRID
        if shown.marked:
            mark(ax, *(scale * place for place in QUERY), scale, scale)
    return drawing
