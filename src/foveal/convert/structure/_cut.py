"""Queries, keys and values of a traced host, from the maps that make them to where they meet.

Shapes     B samples or windows, H heads, N tokens, D head width
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ._flow import Flow, Moved, Split, split_of
from ._trace import Core, Unread
from ._turned import Lies, Region, lies_of, region_of

__all__ = ["Cut", "cut_of"]


@dataclass(frozen=True)
class Cut:
    """One of the three."""

    moved: Moved
    split: Split
    lies: Lies
    end: fx.Node
    """The last node that only moves numbers of the map."""
    turned: bool
    """Whether tokens come last there."""
    region: Region | None = None
    """What is done from there to the softmax, if more is done."""
    met: fx.Node | None = None
    """What comes of that."""

    @property
    def seed(self) -> fx.Node:
        return self.moved.seed

    @property
    def in_order(self) -> bool:
        """Whether tokens stand as the map gave them."""
        places = self.split.places
        return torch.equal(places.flatten(), torch.arange(places.numel(), dtype=places.dtype))


def cut_of(
    graph: fx.GraphModule, values: dict[fx.Node, Any], flow: Flow, core: Core, rows: dict[fx.Node, int], samples: Callable[[fx.Node], int]
) -> tuple[Cut, Cut, Cut]:
    """Of queries, keys and values.

    Args:
        graph: with its modules.
        values: of nodes in one call.
        flow: of the numbers of its maps.
        core: the softmax attention.
        rows: R of each map.
        samples: in the batch of each map.

    Raises:
        Unread: something else is done to them than is followed, or they do not go together.
    """

    def as_heads(moved: Moved) -> bool:
        try:
            split, _ = _either(moved.index, rows[moved.seed], samples(moved.seed))
        except Unread:
            return False
        return len(split.places) == len(v.split.places)

    def one(node: fx.Node, turned: bool, may_turn: bool) -> Cut:
        if not may_turn:
            moved = flow.of(node)
            split = split_of(moved.index, rows[moved.seed], turned, samples(moved.seed))
            return Cut(moved, split, lies_of(split), node, turned)
        met = node
        if turned and isinstance(above := node.args[0] if node.args else None, fx.Node) and _is_turned(values[node], values[above]):
            met, turned = above, False
        moved, region = region_of(graph, flow, met, as_heads)
        if region is None:
            return one(node, met is not node or turned, False)
        if turned:
            raise Unread("something is done to its keys once tokens come last")
        split, lies = _either(moved.index, rows[moved.seed], samples(moved.seed))
        return Cut(moved, split, lies, region.start, False, region, met)

    # q of explicit products may lie (…, D, N) only together with its transposition, which is a move
    v = one(core.v, core.v_turned, False)
    q, k = one(core.q, core.q_turned, True), one(core.k, core.k_turned, True)
    if len(k.split.places) != len(q.split.places) or len(v.split.places) != len(q.split.places) or k.split.places.shape != v.split.places.shape:
        raise Unread("its queries and keys are of other samples")
    widths = (q.split.width, k.split.width, v.split.width)
    if widths[0] != widths[1] or len({q.split.heads, k.split.heads, v.split.heads} - {1}) > 1 or widths[2] < widths[0] or v.moved.factor != 1.0:
        raise Unread("its queries, keys and values are of widths or heads that do not go together")
    if widths[0] < widths[2] and (q.moved.norm or k.moved.norm or q.region or k.region):
        raise Unread("its queries are narrower than its values, and normalized or turned")
    for part in (q, k):
        if part.met is not None and (v.split.heads != q.split.heads or values[part.met].shape[-1] != widths[0]):
            raise Unread("heads of its queries and keys are turned, and lie otherwise than those of its values")
    if k.met is not None and values[k.met].shape[-2] != k.split.places.shape[1]:
        raise Unread("its keys are fewer than they came, behind their map")
    return q, k, v


def _is_turned(made: Any, of: Any) -> bool:
    return isinstance(made, Tensor) and isinstance(of, Tensor) and of.ndim >= 3 and made.shape == of.mT.shape and torch.equal(made, of.mT)


def _either(index: Tensor, rows: int, samples: int) -> tuple[Split, Lies]:
    """Tokens behind heads, or in front of them."""
    try:
        split = split_of(index, rows, False, samples)
        return split, lies_of(split)
    except Unread:
        if index.ndim < 4:
            raise
    split = split_of(index.transpose(-2, -3), rows, False, samples)
    return split, lies_of(split, swapped=True)
