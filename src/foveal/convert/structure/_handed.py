"""Maps that a host hands on beside its output: those of ours stand in their place, in the form that they had."""

from itertools import pairwise
from typing import Any

from torch import fx

from ._body import shown
from ._flow import MOVES, called
from ._trace import Core, Unread

__all__ = ["above", "check_shown", "hand_on", "in_order"]


def hand_on(edit: fx.Graph, core: Core, of_pairs: fx.Node) -> None:
    """Ours is shown where the host's map was, in the form that it had there."""
    on = {*core.passed, core.out, *core.out.all_input_nodes}

    def goes_elsewhere(user: fx.Node) -> bool:
        return user not in on

    for node in (core.softmax, *core.passed):
        if called(node) in ("view", "reshape") and node is not core.softmax:
            form = {node.args[0]: of_pairs}
            of_pairs = edit.node_copy(node, lambda one, form=form: form.get(one, one))  # type: ignore[misc]
        if node in core.shown:
            node.replace_all_uses_with(of_pairs, delete_user_cb=goes_elsewhere)


def in_order(edit: fx.Graph) -> None:
    """Every node behind what it takes.

    Raises:
        Unread: one takes what it makes.
    """
    done: dict[fx.Node, None] = {}

    def put(node: fx.Node, above: tuple[fx.Node, ...]) -> None:
        if node in above:
            raise Unread("what attends is made of its own map")
        if node not in done:
            for one in node.all_input_nodes:
                put(one, (*above, node))
            done[node] = None

    for node in list(edit.nodes):
        put(node, ())
    for one, other in pairwise(done):
        if one.next is not other:
            one.append(other)


def above(node: fx.Node) -> set[fx.Node]:
    """A node, and all that it is made of."""
    found, open_ = {node}, [node]
    while open_:
        more = [one for one in open_.pop().all_input_nodes if one not in found]
        found.update(more)
        open_ += more
    return found


def check_shown(edit: fx.Graph, formed: Any) -> None:
    """A map is handed on, and nothing is made of it: that of an attention that subtracts is no softmax.

    Args:
        edit: the graph.
        formed: the function that gives a map the form that it had.

    Raises:
        Unread: more is made of it.
    """
    open_ = [node for node in edit.nodes if node.target is shown]
    while open_:
        for user in open_.pop().users:
            if user.op != "output" and user.target is not formed and called(user) not in (*MOVES, "shape", "size"):
                raise Unread(f"its map goes through {called(user) or user.target}, and not only to the values")
            open_ += [] if called(user) in ("shape", "size") else [user]
