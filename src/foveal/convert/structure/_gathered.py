"""Tokens as a traced host has them where queries meet keys: cut into windows behind its maps, in whatever order. Places of tokens go the way that numbers go.

Shapes     B samples, P tokens of a sample, C width, R rows of a map, B' samples or windows, N tokens of one
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from ._flow import MOVES, Flow, called
from ._turned import as_tokens_lie

__all__ = ["gathered"]


def places_of(x: Tensor, rows: int, first: bool) -> Tensor:
    """Which token each number of a map belongs to, in the shape that the map gives."""
    lead = (x.shape[0], *x.shape[2:]) if first else tuple(x.shape[:-1])
    places = torch.arange(prod(lead), device=x.device).view(lead)
    return places.unsqueeze(1).expand(lead[0], rows, *lead[1:]) if first else places.unsqueeze(-1).expand(*lead, rows)


def picked(x: Tensor, places: Tensor, heads: int, lies: tuple[Any, ...], turned: bool, first: bool) -> Tensor:
    """``(B', N, C)``.

    Args:
        x: what the map takes.
        places: of tokens, as heads lie.
        heads: H.
        lies: see :class:`foveal.convert.structure._turned.Lies`.
        turned: whether tokens come last there.
        first: whether channels come first in ``x``.
    """
    rows = as_tokens_lie(places.mT if turned else places, heads, lies)[:, 0, :, 0]
    tokens = x.flatten(2).mT.flatten(0, 1) if first else x.flatten(0, -2)
    return tokens[rows]


def gathered(edit: fx.Graph, flow: Flow, take: fx.Node, seed: fx.Node, end: fx.Node, heads: int, lies: tuple[Any, ...], turned: bool, first: bool) -> fx.Node:
    """The tokens that a map takes, in the order of ``end``."""
    rows = flow.seeds[seed].shape[1 if first else -1]
    known: dict[fx.Node, fx.Node] = {seed: edit.call_function(places_of, (take, rows, first))}

    def of(node: fx.Node) -> fx.Node:
        if node not in known:
            if not flow.depends[node]:
                return node
            inner = {one: of(one) for one in node.all_input_nodes}
            # a norm, a factor or the like leaves every number at its place
            first = next(one for one in node.all_input_nodes if flow.depends[one])
            known[node] = edit.node_copy(node, lambda one: inner[one]) if called(node) in MOVES else inner[first]
        return known[node]

    return edit.call_function(picked, (take, of(end), heads, lies, turned, first))
