"""What a traced host does behind its softmax, as far as numbers are only moved: where its output map is, and how what it takes lies.

Shapes     B samples or windows, H heads, N tokens, D head width, I = H·D
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ._body import like_map, like_rows
from ._flow import Flow, Split, channels_first
from ._seen import is_map
from ._trace import Core, Unread

__all__ = ["Behind", "behind_of", "shaped"]


@dataclass(frozen=True)
class Behind:
    """What follows the softmax."""

    node: fx.Node
    """The last that the attention makes."""
    proj: str
    """The path of the output map; empty where there is none."""
    reordered: bool
    """Whether a head's width lies in front of the heads."""
    before: tuple[str, ...]
    """Functions in front of the output map."""
    moved: fx.Node | None = None
    """What the output map takes, where tokens have been moved before it, as when windows are put together."""


def behind_of(
    graph: fx.GraphModule, values: dict[fx.Node, Any], core: Core, frame: Split, count: tuple[int, int], heads: int, width: int, asks: Tensor | None, layer: Any
) -> Behind:
    """As far as numbers are only moved.

    Args:
        graph: with its modules.
        values: of nodes in one call.
        core: the softmax attention.
        frame: how its heads lie.
        count: of samples or windows, and of queries in one.
        heads: H.
        width: D.
        asks: tokens that ask, as the host has them; None where fewer queries come out of them.
        layer: the map that takes them.

    Raises:
        Unread: tokens lie in an order there that is not followed.
    """
    samples, length = count
    tokens = torch.arange(samples * length * heads * width, dtype=torch.float64).view(samples, length, heads, width)
    lies = frame.back(tokens.transpose(1, 2), core.v_turned)
    if lies.shape != values[core.out].shape:
        raise Unread("its output lies in another order than its queries")
    flow = Flow(graph, values, {core.out: lies})
    node = core.out
    part: Any
    before: tuple[str, ...] = ()
    best: Behind | None = None
    while True:
        index, shape = flow.of(node).index, values[node].shape
        for reordered in (True, False):
            flat = (tokens.transpose(2, 3) if reordered else tokens).flatten(2)
            if any(one.shape == shape and torch.equal(one, index) for one in _ways(flat, asks, layer)):
                best = Behind(node, "", reordered, before)
        users = [user for user in node.users if flow.depends[user]]
        if len(users) != 1:
            break
        user = users[0]
        part = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
        if part is not None and is_map(part):
            if best is not None and best.node is node:
                return replace(best, node=user, proj=str(user.target))
            inner = heads * width
            last = index.movedim(1, -1) if channels_first(part) else index
            whole = last.shape[-1] == inner and torch.equal(last % inner, torch.arange(inner, dtype=last.dtype).expand_as(last))
            square = part.weight.shape[0] == inner and not frame.folded and not core.v_turned and len(frame.batch) <= 2
            if whole and square and frame.axis is not None:
                return Behind(user, str(user.target), False, before, node)
            raise Unread("tokens are put together in front of its output map, in a way that is not followed")
        if part is not None and next(part.parameters(), None) is None and values[user].shape == shape:
            # a function without weights, or a dropout: it goes on in front of the output map
            flow.known[user] = flow.of(node)
            before = (*before, str(user.target))
        elif part is not None:
            break
        else:
            try:
                flow.of(user)
            except Unread:
                break
            if not isinstance(flow.of(user).index, Tensor):
                break
        node = user
    if best is None:
        raise Unread("its output lies in another order than its queries")
    return best


def _ways(flat: Tensor, asks: Tensor | None, layer: Any) -> list[Tensor]:
    """``(B, N, I)``, and as the tokens that ask lie."""
    if asks is None:
        return [flat]
    if channels_first(layer):
        return [flat, like_map(flat, asks)]
    return [flat, like_rows(flat, asks)] if asks.ndim != 3 else [flat]


def shaped(edit: fx.Graph, out: fx.Node, end: fx.Node, values: dict[fx.Node, Any], asks: fx.Node | None, layer: Any) -> fx.Node:
    """Ours gives tokens; the host's next step takes what the host's attention gave."""
    first = channels_first(layer)
    if asks is None or (values[end].ndim == 3 and (not first or values[asks].ndim != 3)):
        return out
    return edit.call_function(like_map if first else like_rows, (out, asks))
