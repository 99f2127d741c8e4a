"""What is shown of a model: its maps by layer, where their tokens lie, and what it answered."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..._errors import InputError
from ..layout import Layout
from ..maps import NothingToShow

__all__ = ["LARGEST", "NothingToShow", "ViewedLayer", "ViewedModel", "refuse_large", "strengths_of"]

LARGEST = 2**23
"""Entries of one map of one layer; larger ones are left out, and said."""


@dataclass
class ViewedLayer:
    """The maps of one layer."""

    name: str
    maps: dict[str, Tensor]
    """By name, ``(H, Nq, Nk)``."""
    queries: Layout | None
    """Where who looks lies; None where one query looks for all, as in a pooling head."""
    keys: Layout | None
    """Where the keys of ``positive``, ``negative`` and ``combined`` lie; those of all others lie nowhere, and of None all, as words do."""
    lambdas: list[float] | None = None
    """By head, where ``combined`` is ``positive − λ · negative`` and so need not be kept."""
    heads: list[str] = field(default_factory=list)
    """What the maps are of, where that is not heads by number."""
    names: list[str] = field(default_factory=list)
    """What keys are called that lie nowhere, as words."""
    frames: int = 1
    """Of a video."""
    axis: Literal["all", "space", "time"] = "all"
    """What a patch of a video looks at: patches of all frames, those of its own (then H is ``frames · heads``, frame after frame), or its own place in all
    (then Nq is ``patches · frames``, patch after patch, and keys are frames)."""


@dataclass
class ViewedModel:
    """A model and what it made of one image."""

    name: str
    layers: list[ViewedLayer]
    rollout: ViewedLayer | None = None
    notes: list[str] = field(default_factory=list)
    prefix: list[str] = field(default_factory=list)
    """What the tokens in front of the grid are called."""
    looks: str = ""
    """Who looks where no patch is named, in words."""
    answers: list[tuple[str, float]] = field(default_factory=list)
    """The likeliest classes with their probabilities; none of a model without logits, or that has not learned anything."""
    truth: tuple[str, float, int] | None = None
    """The true class, its probability, and the place that it takes among the answers, from 1."""

    @property
    def grid(self) -> tuple[int, int]:
        """The finest that is looked from, or where no patch looks, at."""
        grids = [layer.queries.grid for layer in self.layers if layer.queries is not None] or [
            layer.keys.grid for layer in self.layers if layer.keys is not None
        ]
        return max(grids, key=lambda grid: grid[0] * grid[1], default=(0, 0))


def strengths_of(maps: dict[str, Tensor]) -> list[float] | None:
    """λ of each head, if the combination is the difference of the two maps by λ, to rounding."""
    if not {"positive", "negative", "combined"} <= set(maps):
        return None
    positive, negative, combined = (maps[which].double() for which in ("positive", "negative", "combined"))
    strengths = ((positive - combined) * negative).sum((-2, -1)) / negative.square().sum((-2, -1)).clamp_min(torch.finfo(torch.float64).tiny)
    rest = (positive - strengths[:, None, None] * negative - combined).abs().max()
    return strengths.tolist() if rest <= 1e-5 * combined.abs().max() else None


def refuse_large(maps: Tensor) -> None:
    """Of maps that no page takes.

    Raises:
        ValueError: there are too many entries.
    """
    if maps.numel() > LARGEST:
        raise InputError(f"its maps have {maps.numel():,} entries, more than the {LARGEST:,} that a page takes; give a smaller image")
