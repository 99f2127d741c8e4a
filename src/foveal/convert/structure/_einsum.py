"""Products that a host writes by letters, as what they are: axes moved, and a matrix product."""

from typing import Any

import torch
from torch import fx

__all__ = ["as_product"]


def as_product(graph: fx.Graph, node: fx.Node) -> None:
    """``torch.einsum`` of two tensors that share all letters but one each, and one that is summed over; all others are left as they are."""
    equation, *operands = node.args
    given: Any = operands[0] if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    letters = _letters(equation) if isinstance(equation, str) and len(given) == 2 else None
    if letters is None:
        return
    first, second, out = letters
    batch = "".join(letter for letter in out if letter in first and letter in second)
    rows, columns = (next(letter for letter in out if letter in one and letter not in batch) for one in (first, second))
    summed = next(letter for letter in first if letter not in out)
    with graph.inserting_before(node):
        product = graph.call_function(
            torch.matmul, (_moved(graph, given[0], first, batch + rows + summed), _moved(graph, given[1], second, batch + summed + columns))
        )
        node.replace_all_uses_with(_moved(graph, product, batch + rows + columns, out))
    graph.erase_node(node)


def _letters(equation: str) -> tuple[str, str, str] | None:
    left, arrow, out = equation.replace(" ", "").partition("->")
    first, comma, second = left.partition(",")
    parts = (first, second, out)
    if not arrow or not comma or not all(part.isalpha() and len(set(part)) == len(part) >= 2 for part in parts):
        return None
    batch, summed = set(first) & set(second) & set(out), (set(first) & set(second)) - set(out)
    alone = [set(one) - set(second if one is first else first) for one in (first, second)]
    fits = len(summed) == 1 and all(len(one) == 1 and one <= set(out) for one in alone) and len(out) == len(batch) + 2
    return parts if fits else None


def _moved(graph: fx.Graph, node: fx.Node, has: str, wants: str) -> fx.Node:
    if has == wants:
        return node
    order = tuple(has.index(letter) for letter in wants)
    if order == (*range(len(order) - 2), len(order) - 1, len(order) - 2):
        return graph.call_method("transpose", (node, -2, -1))
    return graph.call_method("permute", (node, order))
