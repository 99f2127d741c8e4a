"""A host's ``forward`` as a graph, with sizes left open: what runs is written down, and computed beside it on the call at hand.

So shapes can be unpacked anywhere, and a branch that asks for sizes is taken as in this call. Whether other sizes go another way is found out by going that way
too; where it makes a difference, the graph asks again in every call.
"""

import operator
import sys
import traceback
from collections.abc import Collection, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._errors import InputError
from ._arguments import Call
from ._einsum import as_product
from ._trace import Unread

__all__ = ["as_read", "is_open", "swept", "traced"]

_FACTORIES = tuple(getattr(torch, name) for name in ("arange", "zeros", "ones", "full", "empty", "linspace"))
"""Functions that make tensors of sizes alone, which PyTorch's own dispatch does not show."""
_OF_SIZES = ("shape", "ndim", "dtype", "device")
_MOST_BRANCHES = 12
_ALONE = "called for what it does"
"""A mark on functions of the host that are not looked into and whose result nobody takes: they change their arguments."""
_PURE = ("torch", "_operator", "builtins", "math", "foveal")
_UNKNOWN = object()


def is_open(value: Any, sizes: bool = True) -> bool:
    """Arguments that differ from call to call: tensors and sizes. All others are settings, and stay what they were."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and bool(value)) or (sizes and type(value) is int)


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


def swept(graph: fx.Graph, gone: Collection[fx.Node] = ()) -> None:
    """Without what nobody asks for; what changes a tensor in its place, or only asks, stays, unless it is of what is ``gone``."""
    stays = ("placeholder", "output")
    graph.eliminate_dead_code(
        is_impure_node=lambda node: (
            node.op in stays
            or node.target in (as_read, operator.setitem)
            or _ALONE in node.meta
            or (node not in gone and node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"))
        )
    )


def _by_words() -> Iterator[Any]:
    """Functions of einops, which ask what kind of tensor they are given."""
    library = sys.modules.get("einops")
    return (getattr(library, name) for name in ("rearrange", "reduce", "repeat")) if library is not None else iter(())


class _Sized:
    """What is known of a proxy in the call at hand, where that is the same in all calls."""

    def __len__(self: Any) -> int:
        value = self.tracer.known.get(self.node, _UNKNOWN)
        if isinstance(value, (tuple, list)):
            return len(value)
        raise fx.proxy.TraceError("the length of a tensor is a size, which is left open")

    def __getattr__(self: Any, name: str) -> Any:
        return _Attribute(self, name)

    def __index__(self: Any) -> int:
        return int(self.tracer.number(self.node))

    def __int__(self: Any) -> int:
        return int(self.tracer.number(self.node))

    def __float__(self: Any) -> float:
        return float(self.tracer.number(self.node))


class _Proxy(_Sized, fx.Proxy):
    pass


class _Attribute(_Sized, fx.proxy.Attribute):
    pass


class _Tracer(fx.Tracer):
    """Goes into what holds maps; all else stays a module that is called.

    Args:
        maps: paths of linear maps.
        given: arguments by name.
        wrapped: functions that are called and not looked into.
        sizes: whether integers among the arguments are left open.
        turned: which of the branches is taken the other way; None for none.
    """

    proxy_buffer_attributes = True

    def __init__(self, maps: set[str], given: dict[str, Any], wrapped: tuple[Any, ...], sizes: bool, turned: int | None) -> None:
        super().__init__(autowrap_functions=(*wrapped, *_FACTORIES, *_by_words()))
        self._autowrap_search.append(torch)
        self.trace_asserts = True
        self.given, self.sizes, self.turned = given, sizes, turned
        self.entered = {path.rsplit(".", depth)[0] for path in maps for depth in range(1, path.count(".") + 1)}
        self.known: dict[fx.Node, Any] = {}
        self.branches: list[tuple[fx.Node, bool]] = []
        self.answers: dict[fx.Node, bool] = {}
        self.numbers: dict[fx.Node, float] = {}
        self.computing = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.entered

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.computing:
            return forward(*args, **kwargs)
        try:
            self.path_of_module(m)
        except NameError:
            # made in forward, as a softmax is in some
            if isinstance(m, nn.Softmax) and m.dim is not None:
                return self.create_proxy("call_function", torch.softmax, args, {"dim": m.dim})
            return forward(*args, **kwargs)
        if isinstance(m, nn.Identity) and args and args[0] is None:
            return None
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        values = dict(self.given)
        for name, value in self.given.items():
            if is_open(value, self.sizes):
                proxy: Any = self.create_proxy("placeholder", name, (), {})
                # sizes may be unpacked anywhere
                values[name] = tuple(proxy[index] for index in range(len(value))) if isinstance(value, (tuple, list)) else proxy
        return lambda: root_fn(self.root, **values), []

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        graph = super().trace(*args, **kwargs)
        for node in graph.nodes:
            # a mark by which code made from the graph would wrap functions for all who trace
            node.meta.pop("is_wrapped", None)
            if not node.users and node.op == "call_function" and node.target.__module__.partition(".")[0] not in _PURE:
                node.meta[_ALONE] = True
        for node in list(graph.nodes):
            if node.target is torch.einsum:
                as_product(graph, node)
        return graph

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **options: Any) -> Any:
        made = super().create_proxy(kind, target, args, kwargs, *others, **options)
        self.known[made.node] = self._value(made.node)
        return made

    @torch.no_grad()
    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            value = self.given[str(node.target)]
            return value.clone() if isinstance(value, Tensor) else value
        if node.op == "output" or any(self.known.get(one, _UNKNOWN) is _UNKNOWN for one in node.all_input_nodes):
            return _UNKNOWN
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: self.known[one])
        self.computing = True
        try:
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return _evaluated(self.root.get_submodule(str(node.target)), args, kwargs)
            return getattr(args[0], str(node.target))(*args[1:], **kwargs) if node.op == "call_method" else node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # a branch that no call of these sizes takes: what it makes is not known
            return _UNKNOWN
        finally:
            self.computing = False

    def iter(self, obj: Any) -> Iterator[Any]:
        value = self.known.get(obj.node, _UNKNOWN)
        if isinstance(value, (tuple, list)):
            return iter([obj[index] for index in range(len(value))])
        return super().iter(obj)

    def number(self, node: fx.Node) -> float:
        """A size that Python itself asks for, as the length of a loop: the same in every call, or the call is refused."""
        value = self.known.get(node, _UNKNOWN)
        if type(value) not in (int, float) or not _of_sizes(node, self.known):
            raise fx.proxy.TraceError("a number of its tensors is asked for")
        self.numbers.setdefault(node, value)
        return value

    def to_bool(self, obj: Any) -> bool:
        node = obj.node
        # how much is padded: what is done with an amount is done with none as well, which the check on numbers shows
        if node.target is operator.mod or (node.target is operator.gt and _is_zero(node.args[1])):
            return True
        value = self.known.get(node, _UNKNOWN)
        if value is _UNKNOWN or not _of_sizes(node, self.known):
            return super().to_bool(obj)
        if node not in self.answers:
            self.answers[node] = bool(value) != (self.turned == len(self.branches))
            self.branches.append((node, bool(value)))
        return self.answers[node]


def _is_zero(value: Any) -> bool:
    """A comparison with a proxy would be one more condition."""
    return type(value) is int and value == 0


def _evaluated(part: nn.Module, args: Any, kwargs: Any) -> Any:
    """As in evaluation, whatever the mode: only sizes are wanted."""
    modes = [(one, one.training) for one in part.modules()]
    try:
        for one, _ in modes:
            one.training = False
        return part(*args, **kwargs)
    finally:
        for one, mode in modes:
            one.training = mode


def _of_sizes(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    """Whether a value is made of sizes alone, and of no numbers of a tensor."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _OF_SIZES
    if node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension"):
        return True
    return not isinstance(known.get(node), Tensor) and all(_of_sizes(one, known) for one in node.all_input_nodes)


def traced(copy: nn.Module, call: Call, maps: set[str], asked: list[bool] | None = None) -> tuple[fx.Graph, list[bool]]:
    """The graph of one call, the same in training and in evaluation but for dropout inside the attention; and which of its branches matter.

    Args:
        copy: of the host.
        call: of it.
        maps: paths of its linear maps.
        asked: which branches matter, where that was found out in the other mode; None to find out.

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
            tracer = _Tracer(maps, given, wrapped, sizes, None)
            try:
                graph = tracer.trace(copy)
            except _TROUBLE as error:
                said = said or f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
                continue
            return _with_branches(copy, graph, tracer, partial(_Tracer, maps, given, wrapped, sizes), asked)
    raise Unread(f"its forward cannot be traced ({said})")


_TROUBLE = (
    *(fx.proxy.TraceError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError, AssertionError, NotImplementedError),
    *(NameError, ArithmeticError),
)
"""What tracers and hosts raise."""


def _with_branches(copy: nn.Module, graph: fx.Graph, tracer: _Tracer, other: Any, asked: list[bool] | None) -> tuple[fx.Graph, list[bool]]:
    """The graph, asking in every call for what sizes decide, where they make a difference."""
    if len(tracer.branches) > _MOST_BRANCHES:
        raise Unread(f"what it does depends on sizes at {len(tracer.branches)} places")
    if asked is None or len(asked) != len(tracer.branches):
        asked = [_matters(copy, tracer, index, other(index)) for index in range(len(tracer.branches))]
    for index, (node, value) in enumerate(tracer.branches):
        _settle(node, value)
        if asked[index]:
            with graph.inserting_after(node):
                graph.call_function(as_read, (node, value))
    for node, number in tracer.numbers.items():
        with graph.inserting_after(node):
            graph.call_function(as_read, (node, number))
    _as_the_mode_says(graph, copy.training)
    swept(graph)
    return graph, asked


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


def _matters(copy: nn.Module, tracer: _Tracer, index: int, turned: _Tracer) -> bool:
    """Whether anything else runs where a branch is taken the other way. That the host itself raises there is no matter: ours asks for shapes itself."""
    try:
        graph = turned.trace(copy)
    except _TROUBLE as error:
        return not _is_refusal(error)
    for position, (node, value) in enumerate(turned.branches):
        _settle(node, value != (position == index))
    return _code(graph) != _code(_settled_copy(tracer))


def _is_refusal(error: BaseException) -> bool:
    """Whether a host says no, and it is not the tracer that cannot go on."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    raised = isinstance(error, (ValueError, AssertionError, RuntimeError)) and not isinstance(error, (fx.proxy.TraceError, NotImplementedError))
    return raised and last.partition(".")[0] not in ("torch", __name__.partition(".")[0])


def _settled_copy(tracer: _Tracer) -> fx.Graph:
    same: dict[fx.Node, fx.Node] = {}
    out = fx.Graph()
    out.output(out.graph_copy(tracer.graph, same))
    for node, value in tracer.branches:
        _settle(same[node], value)
    return out


def _code(graph: fx.Graph) -> str:
    """Numbered anew: names count what was dropped, too."""
    swept(graph)
    out = fx.Graph()
    out.output(out.graph_copy(graph, {}))
    return str(out.python_code("self").src)
