"""A host's ``forward`` is written down as it runs, with sizes left open, and computed beside it on the call at hand.

So shapes can be unpacked anywhere, and what is asked of sizes is answered as in this call, and noted.
"""

import operator
import random
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ._einsum import as_product
from ._trace import Unread

__all__ = ["ALONE", "Tracer", "evaluated", "is_open", "of_sizes"]

_FACTORIES = tuple(getattr(torch, name) for name in ("arange", "zeros", "ones", "full", "empty", "linspace"))
"""Functions that make tensors of sizes alone, which PyTorch's own dispatch does not show."""
_OF_SIZES = ("shape", "ndim", "dtype", "device")
ALONE = "called for what it does"
"""A mark on functions of the host that are not looked into and whose result nobody takes: they change their arguments."""
_PURE = ("torch", "_operator", "builtins", "math", "foveal")
_UNKNOWN = object()


def is_open(value: Any, sizes: bool = True) -> bool:
    """Arguments that differ from call to call: tensors and sizes. All others are settings, and stay what they were."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and bool(value)) or (sizes and type(value) is int)


def _by_words() -> Iterator[Any]:
    """Functions of einops, which ask what kind of tensor they are given."""
    library = sys.modules.get("einops")
    return (getattr(library, name) for name in ("rearrange", "reduce", "repeat")) if library is not None else iter(())


class _Sized:
    """What is known of a proxy in the call at hand, where that is the same in all calls."""

    def __len__(self: Any) -> int:
        value = self.tracer.known.get(self.node, _UNKNOWN)
        if isinstance(value, (tuple, list)):
            return int(self.tracer.counted(self.node, value))
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


class Tracer(fx.Tracer):
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
        self.counts: dict[fx.Node, int] = {}
        self.amounts: list[fx.Node] = []
        self.left: tuple[str, ...] = ()
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
                # sizes may be unpacked anywhere, and in another call there may be more of them
                values[name] = tuple(proxy[index] for index in range(self.counted(proxy.node, value))) if isinstance(value, (tuple, list)) else proxy
        return lambda: root_fn(self.root, **values), []

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        parts = list(args[0].modules())
        before = [dict(vars(part)) for part in parts]
        try:
            with _nothing_drawn():
                graph = super().trace(*args, **kwargs)
            self.left = tuple(name for part, had in zip(parts, before, strict=True) for name in _left_in(part, had) if part is args[0])
        finally:
            for part, had in zip(parts, before, strict=True):
                for name in [name for name, value in vars(part).items() if name not in had or had[name] is not value]:
                    del vars(part)[name]
                vars(part).update(had)
        for node in graph.nodes:
            # a mark by which code made from the graph would wrap functions for all who trace
            node.meta.pop("is_wrapped", None)
            if not node.users and node.op == "call_function" and node.target.__module__.partition(".")[0] not in _PURE:
                node.meta[ALONE] = True
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
    @torch.random.fork_rng(devices=[])
    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            value = self.given[str(node.target)]
            return value.clone() if isinstance(value, Tensor) else value
        if node.op == "output" or any(self.known.get(one, _UNKNOWN) is _UNKNOWN for one in node.all_input_nodes):
            return _UNKNOWN
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: self.known[one])
        self.computing, drawn = True, random.getstate()
        try:
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return evaluated(self.root.get_submodule(str(node.target)), args, kwargs)
            return getattr(args[0], str(node.target))(*args[1:], **kwargs) if node.op == "call_method" else node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # a branch that no call of these sizes takes: what it makes is not known
            return _UNKNOWN
        finally:
            random.setstate(drawn)
            self.computing = False

    def iter(self, obj: Any) -> Iterator[Any]:
        value = self.known.get(obj.node, _UNKNOWN)
        if isinstance(value, (tuple, list)):
            return iter([obj[index] for index in range(self.counted(obj.node, value))])
        return super().iter(obj)

    def counted(self, node: fx.Node, value: Collection[Any]) -> int:
        """How many there are of what a loop goes through, or what is unpacked."""
        self.counts.setdefault(node, len(value))
        return len(value)

    def number(self, node: fx.Node) -> float:
        """A size that Python itself asks for, as the length of a loop: the same in every call, or the call is refused."""
        value = self.known.get(node, _UNKNOWN)
        if type(value) not in (int, float) or not of_sizes(node, self.known):
            raise fx.proxy.TraceError("a number of its tensors is asked for")
        self.numbers.setdefault(node, value)
        return value

    def to_bool(self, obj: Any) -> bool:
        node = obj.node
        value = self.known.get(node, _UNKNOWN)
        if value is _UNKNOWN or not of_sizes(node, self.known):
            return super().to_bool(obj)
        # how much is padded: what is done with an amount is done with none as well, which the check on numbers shows where there is none
        if node.target is operator.mod or (node.target is operator.gt and _is_zero(node.args[1])):
            if node not in self.amounts:
                self.amounts.append(node)
            return True
        if node not in self.answers:
            self.answers[node] = bool(value) != (self.turned == len(self.branches))
            self.branches.append((node, bool(value)))
        return self.answers[node]


def _is_zero(value: Any) -> bool:
    """A comparison with a proxy would be one more condition."""
    return type(value) is int and value == 0


def evaluated(part: nn.Module, args: Any, kwargs: Any) -> Any:
    """As in evaluation, whatever the mode: only sizes are wanted."""
    modes = [(one, one.training) for one in part.modules()]
    try:
        for one, _ in modes:
            one.training = False
        return part(*args, **kwargs)
    finally:
        for one, mode in modes:
            one.training = mode


def of_sizes(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    """Whether a value is made of sizes alone, and of no numbers of a tensor."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _OF_SIZES
    if node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension"):
        return True
    return not isinstance(known.get(node), Tensor) and all(of_sizes(one, known) for one in node.all_input_nodes)


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """While a forward is traced.

    Raises:
        Unread: random numbers were drawn that no graph has.
    """
    before = _drawn()
    yield
    if _drawn() != before:
        raise Unread("it draws random numbers that would stay what they were in the call at hand")


def _drawn() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy")
    return random.getstate(), torch.get_rng_state().tolist(), str(numpy.random.get_state()) if numpy is not None else ""


def _left_in(part: nn.Module, had: dict[str, Any]) -> list[str]:
    """Attributes that hold something of the call now.

    Raises:
        Unread: a number is another after the call.
    """
    left = []
    for name, value in vars(part).items():
        if name in had and had[name] is value:
            continue
        if _of_call(value):
            left.append(name)
        elif name in had and type(value) in (int, float, bool, str) and value != had[name]:
            raise Unread(f"it changes its own {name} from call to call")
    return left


def _of_call(value: Any) -> bool:
    if isinstance(value, (tuple, list, dict)):
        return any(_of_call(one) for one in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, fx.Proxy)
