"""What a traced host does to queries and keys once they are cut into heads, as where it turns them by positions or pools queries: its own code, handed to ours.

Shapes     B samples or windows, H heads, N tokens, D head width
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ._code import Code
from ._flow import Flow, Moved, Split
from ._trace import Unread

__all__ = ["Lies", "Region", "as_tokens_lie", "heads_as_host", "lies_of", "region_of", "turning"]


@dataclass(frozen=True)
class Lies:
    """How a host has its heads, beside ``(B, H, N, D)``."""

    batches: int
    """1, or 2 where windows have an axis of their own."""
    axis: int | None
    """Where the heads are; None where there is no such axis."""
    folded: bool = False
    """Whether samples and heads are one axis."""
    swapped: bool = False
    """Whether tokens lie in front of heads at the end."""

    def told(self) -> tuple[Any, ...]:
        """As a graph holds it."""
        return self.batches, self.axis, self.folded, self.swapped


def lies_of(split: Split, swapped: bool = False) -> Lies:
    return Lies(len(split.batch), split.axis, split.folded, swapped)


def heads_as_host(x: Tensor, like: Tensor, lies: tuple[Any, ...]) -> Tensor:
    """``(B, H, N, D)`` as the host has it.

    Args:
        x: heads.
        like: a tensor with as many samples as there are.
        lies: see :class:`Lies`.
    """
    batches, axis, folded, swapped = lies
    x = x.unflatten(0, (like.shape[0], -1)) if batches == 2 else x
    x = x.squeeze(-3) if axis is None else x.movedim(-3, axis)
    x = x.flatten(0, 1) if folded else x
    return x.transpose(-2, -3) if swapped else x


def as_tokens_lie(x: Tensor, heads: int, lies: tuple[Any, ...]) -> Tensor:
    """The other way round."""
    batches, axis, folded, swapped = lies
    x = x.transpose(-2, -3) if swapped else x
    x = x.unflatten(0, (-1, heads)) if folded else x
    x = x.unsqueeze(-3) if axis is None else x.movedim(axis, -3)
    return x.flatten(0, 1) if batches == 2 else x


def turning(part: Code, like: Tensor, before: tuple[Any, ...], after: tuple[Any, ...], heads: int, *others: Any) -> Callable[[Tensor], Tensor]:
    """A function of heads ``(B, H, N, D)`` that calls the host's code.

    Args:
        part: the host's code, of heads as it has them, and of ``others``.
        like: see :func:`heads_as_host`.
        before: how heads lie where the code takes them.
        after: how they lie where it gives them.
        heads: H.
        others: what else the code takes in this call, as positions and sizes.
    """

    def turn(x: Tensor) -> Tensor:
        return as_tokens_lie(part(heads_as_host(x, like, before), *others), heads, after)

    return turn


@dataclass(frozen=True)
class Region:
    """Code between heads of a map and the softmax."""

    start: fx.Node
    """The last that only moves numbers of the map."""
    code: Code
    others: tuple[fx.Node, ...]
    """What else the code takes."""


def region_of(module: fx.GraphModule, flow: Flow, end: fx.Node, fits: Callable[[Moved], bool]) -> tuple[Moved, Region | None]:
    """Numbers of a map as they come to the softmax, or as they come to what is done to them before.

    Args:
        module: the graph.
        flow: of its numbers.
        end: what meets.
        fits: whether numbers lie as heads.

    Raises:
        Unread: no map makes them, or several, or something with weights is done to them.
    """
    try:
        return flow.of(end), None
    except Unread as error:
        said = error
    inside = _above(flow, end)
    for node in sorted(inside, reverse=True):
        try:
            moved = flow.of(node)
        except Unread:
            continue
        if isinstance(moved.index, Tensor) and moved.factor == 1.0 and fits(moved) and _all_through(flow, node, end):
            return moved, _region(module, flow, node, end)
    raise said


def _above(flow: Flow, end: fx.Node) -> set[fx.Node]:
    """All that a node is made of, as far as it is made of maps."""
    found, open_ = set(), [end]
    while open_:
        node = open_.pop()
        if node not in found and flow.depends[node]:
            found.add(node)
            open_ += node.all_input_nodes if node not in flow.seeds else []
    return found


def _all_through(flow: Flow, node: fx.Node, end: fx.Node) -> bool:
    """Whether all that ``end`` has of maps it has through ``node``."""
    seen, open_ = {node}, [end]
    while open_:
        one = open_.pop()
        if one in seen or not flow.depends[one]:
            continue
        if one in flow.seeds:
            return False
        seen.add(one)
        open_ += one.all_input_nodes
    return True


def _region(module: fx.GraphModule, flow: Flow, start: fx.Node, end: fx.Node) -> Region:
    graph = fx.Graph()
    inner: dict[fx.Node, fx.Node] = {start: graph.placeholder("x")}
    others: list[fx.Node] = []
    through = _through(start, end)
    for node in module.graph.nodes:
        if node not in through or node is start:
            continue
        if node.op not in ("call_function", "call_method"):
            raise Unread(f"what its map gives goes through {node.target} after it was cut")
        for one in node.all_input_nodes:
            if one not in inner:
                others.append(one)
                inner[one] = graph.placeholder(f"other_{len(others)}")
        inner[node] = graph.node_copy(node, lambda one: inner[one])
    graph.output(inner[end])
    return Region(start, Code(graph), tuple(others))


def _through(start: fx.Node, end: fx.Node) -> set[fx.Node]:
    """All nodes on ways from ``start`` to ``end``."""
    after, open_ = {start}, [start]
    while open_:
        for user in open_.pop().users:
            if user not in after:
                after.add(user)
                open_.append(user)
    before, open_ = {end}, [end]
    while open_:
        for one in open_.pop().all_input_nodes:
            if one not in before:
                before.add(one)
                open_.append(one)
    return after & before
