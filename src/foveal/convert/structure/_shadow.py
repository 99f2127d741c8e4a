"""Sizes of what is no longer computed: a host may ask for the shape of something between its maps and its output. Without numbers it is computed still."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from ._symbolic import swept
from ._trace import Unread

__all__ = ["shadowed"]

_SHAPES = ("shape", "ndim")
_SIZES = ("size", "dim", "numel", "ndimension")


def of_map(x: Tensor, rows: int, first: bool) -> Tensor:
    """What a map gives, without numbers.

    Args:
        x: what the map takes.
        rows: how wide it makes it.
        first: whether channels come first.
    """
    shape = (x.shape[0], rows, *x.shape[2:]) if first else (*x.shape[:-1], rows)
    return torch.empty(shape, dtype=x.dtype, device="meta")


def without_numbers(x: Any) -> Any:
    return x.to("meta") if isinstance(x, Tensor) else x


def shadowed(graph: fx.Graph, values: dict[fx.Node, Any], seeds: dict[fx.Node, tuple[int, bool]], others: Collection[fx.Node] = ()) -> None:
    """Every size that is still asked of a map, or of what is made of one, is asked of a shadow.

    Args:
        graph: edited in place.
        values: what every node was in one call.
        seeds: maps that are no longer called: how many rows each has, and whether channels come first.
        others: what else is no longer computed, of inputs that are.
    """
    made: set[fx.Node] = set()
    for node in graph.nodes:
        if node in seeds or node in others or (isinstance(values.get(node), (Tensor, tuple, list)) and any(one in made for one in node.all_input_nodes)):
            made.add(node)
    shadows: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        of_shape = node.op == "call_function" and (node.target is len or (node.target is getattr and node.args[1] in _SHAPES))
        if (of_shape or (node.op == "call_method" and node.target in _SIZES)) and node.args[0] in made:
            with graph.inserting_before(node):
                node.replace_input_with(node.args[0], _shadow(graph, node.args[0], made, values, seeds, shadows))
    swept(graph)


def _shadow(graph: fx.Graph, node: fx.Node, made: set[fx.Node], values: dict[fx.Node, Any], seeds: Any, shadows: dict[fx.Node, fx.Node]) -> fx.Node:
    if node not in shadows:
        if node in seeds:
            shadows[node] = graph.call_function(of_map, (node.args[0], *seeds[node]))
        elif node not in made:
            shadows[node] = graph.call_function(without_numbers, (node,)) if isinstance(values.get(node), Tensor) else node
        elif node.op in ("call_function", "call_method"):
            inner = {one: _shadow(graph, one, made, values, seeds, shadows) for one in node.all_input_nodes}
            shadows[node] = graph.node_copy(node, lambda one: inner[one])
        else:
            raise Unread(f"it asks for a size behind {node.target}")
    return shadows[node]
