"""A host's ``forward`` as a graph that holds for other calls: what sizes decide in it is found out, and where it makes a difference it is asked in every call.

Whether other sizes go another way through a condition is found out by going that way too.
"""

import operator
import traceback
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._errors import InputError
from ._arguments import Call
from ._code import led, padded
from ._larger import larger
from ._trace import Unread
from ._tracer import ALONE, Tracer, evaluated, of_sizes

__all__ = ["Ways", "as_read", "swept", "traced"]

_MOST_BRANCHES = 12


def as_read(value: Any, wanted: float) -> None:
    """Asked in a graph, where sizes decide what runs.

    Raises:
        ValueError: another way than where it was read.
    """
    if value != wanted:
        raise InputError(
            "a converted attention is given sizes at which its forward does something else than where it was read: one of its "
            f"{'conditions on sizes' if isinstance(wanted, bool) else 'sizes'} was {wanted} and is given tokens of which it is {value}; convert with inputs of "
            "the sizes that it will have (convert_(…, inputs=…)), or leave it out of `where`"
        )


def _code(graph: fx.Graph) -> str:
    """Numbered anew. Where names count what was dropped all the same, a condition is asked that need not be."""
    swept(graph)
    out = fx.Graph()
    out.output(out.graph_copy(graph, {}))
    return str(out.python_code("self").src)


@dataclass(frozen=True)
class Ways:
    """What was found out of a forward in one mode, for the other as well."""

    asked: list[bool | None]
    """Which of its conditions on sizes matter; None where others do, to which one leads."""
    fixed: list[bool]
    """Which of the lengths of what it goes through are the same at all sizes."""
    left: tuple[str, ...]
    """Attributes in which it leaves something of each call."""


def swept(graph: fx.Graph, gone: Collection[fx.Node] = ()) -> None:
    """Without what nobody asks for; what changes a tensor in its place, or only asks, stays, unless it is of what is ``gone``."""
    stays = ("placeholder", "output")
    graph.eliminate_dead_code(
        is_impure_node=lambda node: (
            node.op in stays
            or node.target in (as_read, led, padded, operator.setitem)
            or ALONE in node.meta
            or (node not in gone and node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"))
        )
    )


def traced(copy: nn.Module, call: Call, maps: set[str], ways: Ways | None = None) -> tuple[fx.Graph, Ways]:
    """The graph of one call, the same in training and in evaluation but for dropout inside the attention; and what was found out of it.

    Args:
        copy: of the host.
        call: of it.
        maps: paths of its linear maps.
        ways: what was found out in the other mode; None to find out.

    Raises:
        Unread: what runs depends on numbers, or on sizes at too many places.
    """
    # one path of the two that timm's modules have
    for part in copy.modules():
        if isinstance(getattr(part, "fused_attn", None), bool):
            setattr(part, "fused_attn", True)  # noqa: B010  # modules take any attribute, and types of theirs know none
    globals_ = getattr(type(copy).forward, "__globals__", {})
    library = type(copy).__module__.partition(".")[0]
    own = tuple(value for value in globals_.values() if isinstance(value, FunctionType) and (value.__module__ or "").partition(".")[0] == library)
    given = {**call.defaults, **call.values}
    said = ""
    for wrapped in ((), own):
        for sizes in (True, False):
            tracer = Tracer(maps, given, wrapped, sizes, None)
            try:
                graph = tracer.trace(copy)
            except _TROUBLE as error:
                said = said or f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
                continue
            return _with_branches(copy, graph, tracer, partial(Tracer, maps, given, wrapped, sizes), call, ways)
    raise Unread(f"its forward cannot be traced ({said})")


_TROUBLE = (
    *(fx.proxy.TraceError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError, AssertionError, NotImplementedError),
    *(NameError, ArithmeticError),
)
"""What tracers and hosts raise."""


def _with_branches(copy: nn.Module, graph: fx.Graph, tracer: Tracer, other: Any, call: Call, ways: Ways | None) -> tuple[fx.Graph, Ways]:
    """The graph, asking in every call for what sizes decide, where they make a difference."""
    if len(tracer.branches) > _MOST_BRANCHES:
        raise Unread(f"what it does depends on sizes at {len(tracer.branches)} places")
    if ways is None or (len(ways.asked), len(ways.fixed), ways.left) != (len(tracer.branches), len(tracer.counts), tracer.left):
        asked: list[bool | None] = [None] * len(tracer.branches)
        ways = Ways(asked, _fixed(copy, tracer, call), tracer.left)
    turned = {index: other(index) for index, matters in enumerate(ways.asked) if matters is None}
    ways = replace(ways, asked=[_matters(copy, tracer, index, turned[index]) if index in turned else matters for index, matters in enumerate(ways.asked)])
    brought = {index: _brought(tracer, index, turned[index]) for index, matters in enumerate(ways.asked) if matters is None}
    for index, (matters, (node, value)) in enumerate(zip(ways.asked, tracer.branches, strict=True)):
        _settle(node, value)
        others = brought.get(index)
        if others is not None:
            with graph.inserting_after(max(node, *others)):
                graph.call_function(led, (node, value, index, tuple(others), tuple(answer for _, answer in turned[index].branches[index + 1 :])))
        elif matters is not False:
            with graph.inserting_after(node):
                graph.call_function(as_read, (node, value))
    for node, number in tracer.numbers.items():
        with graph.inserting_after(node):
            graph.call_function(as_read, (node, number))
    for fixed, (node, count) in zip(ways.fixed, tracer.counts.items(), strict=True):
        if not fixed:
            with graph.inserting_after(node):
                length = graph.call_function(len, (node,))
            with graph.inserting_after(length):
                graph.call_function(as_read, (length, count))
    for index, node in enumerate(tracer.amounts):
        with graph.inserting_after(node):
            graph.call_function(padded, (node, index))
    _as_the_mode_says(graph, copy.training)
    swept(graph)
    return graph, ways


def _as_the_mode_says(graph: fx.Graph, training: bool) -> None:
    """A dropout that is a function was told the mode of its module; it goes on to ask."""
    for node in [node for node in graph.nodes if node.target is nn.functional.dropout and node.kwargs.get("training") is training]:
        with graph.inserting_before(node):
            node.kwargs = {**node.kwargs, "training": graph.create_node("get_attr", "training")}


def _settle(node: fx.Node, value: bool) -> None:
    """A condition may be handed on, by ``and`` and ``or``; here it is known."""
    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, lambda one: value if one is node else one)
        user.kwargs = fx.node.map_arg(user.kwargs, lambda one: value if one is node else one)


def _matters(copy: nn.Module, tracer: Tracer, index: int, turned: Tracer) -> bool | None:
    """Whether anything else runs where a branch is taken the other way; None where nothing does, and other conditions are asked.

    That the host itself raises there is no matter: ours asks for shapes itself.
    """
    try:
        turned.graph = turned.trace(copy)
    except Unread:
        return True
    except _TROUBLE as error:
        return not _is_refusal(error)
    for asks in (False, True):
        codes = []
        for one in (turned, tracer):
            made, same = _copied(one)
            for position, (node, value) in enumerate(one.branches):
                _settle(same[node], value != (position == index and one is turned))
                if asks and position != index:
                    with made.inserting_after(same[node]):
                        made.call_function(as_read, (same[node], value))
            codes.append(_code(made))
        if codes[0] != codes[1]:
            return None if asks else True
    return False


def _brought(tracer: Tracer, index: int, turned: Tracer) -> list[fx.Node] | None:
    """The conditions to which one leads, in the graph of the other way; None where they ask for sizes of what is not there."""
    flipped, graph = turned.branches[index][0], tracer.graph
    same: dict[fx.Node, fx.Node] = {}
    for node, one in zip(turned.graph.nodes, graph.nodes, strict=False):
        if (node.op, str(node.target)) != (one.op, str(one.target)):
            return None
        same[node] = one
        if node is flipped:
            break
    end = same[flipped]

    def of(node: fx.Node) -> fx.Node | None:
        nonlocal end
        if node not in same:
            inner = [of(one) for one in node.all_input_nodes]
            if node.op not in ("call_function", "call_method") or isinstance(turned.known.get(node), Tensor) or any(one is None for one in inner):
                return None
            with graph.inserting_after(end):
                end = same[node] = graph.node_copy(node, lambda one: same[one])
        return same[node]

    found = [of(node) for node, _ in turned.branches[index + 1 :]]
    return [one for one in found if one is not None] if found and None not in found else None


def _is_refusal(error: BaseException) -> bool:
    """Whether a host says no, and it is not the tracer that cannot go on."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    raised = isinstance(error, (ValueError, AssertionError, RuntimeError)) and not isinstance(error, (fx.proxy.TraceError, NotImplementedError))
    return raised and last.partition(".")[0] not in ("torch", __name__.partition(".")[0])


def _copied(tracer: Tracer) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    same: dict[fx.Node, fx.Node] = {}
    out = fx.Graph()
    out.output(out.graph_copy(tracer.graph, same))
    return out, same


def _fixed(copy: nn.Module, tracer: Tracer, call: Call) -> list[bool]:
    """Which lengths are the same at all sizes: as many axes as what came has, or the same of more samples and, if the host takes them, of larger images."""
    several = [node for node in tracer.counts if not of_sizes(node, tracer.known)]
    found = [_lengths(copy, tracer, call, other) for other in (_one_more(call), *_first_that_runs(copy, call))] if several else []
    return [
        all(node in one and one[node] == count for one in found) if node in several else _shape_of(node).op != "placeholder"
        for node, count in tracer.counts.items()
    ]


def _shape_of(node: fx.Node) -> fx.Node:
    """What a size was asked of."""
    while node.op != "placeholder" and node.all_input_nodes and (node.op == "call_method" or node.target in (operator.getitem, getattr)):
        node = node.all_input_nodes[0]
    return node


def _one_more(call: Call) -> Call:
    """With one more sample."""
    count = next((len(value) for value in call.tensors.values()), 0)
    grown = {name: torch.cat([value, value[:1]]) for name, value in call.values.items() if isinstance(value, Tensor) and value.ndim and len(value) == count}
    return replace(call, values=call.values | grown)


def _first_that_runs(copy: nn.Module, call: Call) -> list[Call | None]:
    """None of all where a host takes no other sizes; one that is None where nobody knows what others would be."""
    others = list(larger(call))
    for other in others:
        try:
            with torch.no_grad():
                evaluated(copy, (), other.values)
        except Exception:  # whatever a host raises at sizes that it does not take
            continue
        return [other]
    return [] if others else [None]


def _lengths(copy: nn.Module, tracer: Tracer, call: Call, other: Call | None) -> dict[fx.Node, int]:
    """At other sizes, as far as the graph runs there."""
    if other is None:
        return {}
    graph, same = _copied(tracer)
    module, found, given = fx.GraphModule(copy, graph), dict[fx.Node, int](), call.defaults | other.values
    wanted = {same[node]: node for node in tracer.counts}

    class Counting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            made = super().run_node(n)
            if n in wanted:
                found[wanted[n]] = len(made)
            return made

    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            Counting(module).run(*[given[str(node.target)] for node in graph.nodes if node.op == "placeholder"])
    except Exception:  # as above
        return found
    finally:
        for part, mode in modes:
            part.training = mode
    return found
