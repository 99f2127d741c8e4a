"""A host's ``forward`` as a graph, with sizes left open, and the softmax attention in it."""

import operator
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ._arguments import Call
from ._sizes import COMPARED, Known, held

__all__ = [
    *("Core", "Unread", "changed_in_place", "changes_nothing", "core_in", "grid_in", "is_open", "is_product", "not_one", "softmax_in", "traced"),
    *("values_met", "values_of"),
]


class Unread(Exception):
    """Why a host's forward could not be read."""


def is_open(value: Any) -> bool:
    """Arguments that differ from call to call: tensors and sizes. All others are settings, and stay what they were."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and bool(value))


def grid_in(values: dict[str, Any]) -> set[str]:
    """Two numbers among the arguments that are the rows and columns of tokens: they differ from image to image."""
    counts = {value.shape[1] for value in values.values() if isinstance(value, Tensor) and value.ndim == 3}
    numbers = {name: value for name, value in values.items() if type(value) is int}
    return set(numbers) if len(numbers) == 2 and prod(numbers.values()) in counts else set()


class _Sized(fx.Proxy):
    """Of a known length."""

    def __len__(self) -> int:
        count = self.tracer.length(self)  # type: ignore[attr-defined]
        return super().__len__() if count is None else count


class _Tracer(fx.Tracer):
    """Goes into what holds maps; all else stays a module that is called."""

    proxy_buffer_attributes = True

    def __init__(self, maps: set[str], known: Known | None, call: Call, wrapped: tuple[Any, ...], turned: int | None = None) -> None:
        super().__init__(autowrap_functions=wrapped)
        self.trace_asserts = True
        self.given, self.known, self.turned, self.count = {**call.defaults, **call.values}, known, turned, 0
        self.grid = grid_in(self.given)
        if known is not None:
            known.values.clear()
        self.entered = {path.rsplit(".", depth)[0] for path in maps for depth in range(1, path.count(".") + 1)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.entered

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # one that is made in the forward, as ``nn.Softmax(-1)(logits)``, is a function
        return super().call_module(m, forward, args, kwargs) if any(m is part for part in self.root.modules()) else forward(*args, **kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        values = dict(self.given)
        for name, value in self.given.items():
            if is_open(value) or name in self.grid:
                proxy: Any = self.create_proxy("placeholder", name, (), {})
                # sizes may be unpacked anywhere
                values[name] = proxy if isinstance(value, (Tensor, int)) else tuple(proxy[index] for index in range(len(value)))
        return lambda: root_fn(self.root, **values), []

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        made = super().create_proxy(kind, target, args, kwargs, *more, **options)
        if self.known is None or kind != "call_function" or target not in COMPARED or (target is operator.gt and _is_zero(args[1])):
            return made
        try:
            value = self.known.of(made.node)
        except Exception:  # whatever a host's function raises where its sizes are not known: it is traced as before
            return made
        return self._held(made, value) if isinstance(value, bool) else made

    def _held(self, made: Any, value: Any) -> Any:
        which, self.count = self.count, self.count + 1
        super().create_proxy("call_function", held, (made, value, which), {})
        return value if which != self.turned or not isinstance(value, bool) else not value

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def length(self, obj: Any) -> int | None:
        """Of what holds several, as sizes do."""
        if self.known is None:
            return None
        try:
            value = self.known.of(obj.node)
        except Exception:  # as above
            return None
        if not isinstance(value, (tuple, list)):
            return None
        return self._held(super().create_proxy("call_function", len, (obj,), {}), len(value))

    def iter(self, obj: Any) -> Any:
        count = self.length(obj)
        return super().iter(obj) if count is None else iter([obj[index] for index in range(count)])

    def to_bool(self, obj: Any) -> bool:
        node = obj.node
        # how much is padded: what is done with an amount is done with none as well, which the check on numbers shows
        if node.target is operator.mod or (node.target is operator.gt and _is_zero(node.args[1])):
            return True
        return super().to_bool(obj)


def traced(copy: nn.Module, call: Call, maps: set[str]) -> fx.Graph:
    """The graph of one call, the same in training and in evaluation but for dropout inside the attention.

    Raises:
        Unread: what runs depends on numbers.
    """
    # one path of the two that timm's modules have
    for part in copy.modules():
        if isinstance(getattr(part, "fused_attn", None), bool):
            setattr(part, "fused_attn", True)  # noqa: B010  # modules take any attribute, and types of theirs know none
    said = ""
    # conditions are held only where nothing else will do
    for holds in (False, True):
        for wrapped in ((), _own_functions(copy)):
            try:
                return _Tracer(maps, Known(copy, {**call.defaults, **call.values}) if holds else None, call, wrapped).trace(copy)
            except _NOT_TRACED as error:
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    raise Unread(f"its forward cannot be traced ({said})")


_NOT_TRACED = (
    *(fx.proxy.TraceError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError, AssertionError, NotImplementedError),
    *(ZeroDivisionError, OverflowError, NameError),
)
"""What tracers and hosts raise."""


def _own_functions(copy: nn.Module) -> tuple[FunctionType, ...]:
    library = type(copy).__module__.partition(".")[0]
    named = getattr(type(copy).forward, "__globals__", {}).values()
    return tuple(value for value in named if isinstance(value, FunctionType) and (value.__module__ or "").partition(".")[0] == library)


def changes_nothing(copy: nn.Module, call: Call, maps: set[str], which: int) -> bool:
    """Whether a condition on sizes is a check alone: the other way a host raises, or does the same."""
    known = Known(copy, {**call.defaults, **call.values})
    for wrapped in ((), _own_functions(copy)):
        try:
            graph = _Tracer(maps, known, call, wrapped).trace(copy)
            break
        except _NOT_TRACED:
            continue
    else:
        return False
    try:
        other = _Tracer(maps, known, call, wrapped, which).trace(copy)
    except _NOT_TRACED as error:
        return _is_refusal(error)
    sources = []
    for one in (graph, other):
        for node in [node for node in one.nodes if node.target is held]:
            one.erase_node(node)
        # with what nobody reads: a statement may change a tensor in place
        sources.append(one.python_code("self").src)
    return sources[0] == sources[1]


def _is_refusal(error: BaseException) -> bool:
    """Whether a host says no, and it is not the tracer that cannot go on."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    raised = isinstance(error, (ValueError, AssertionError, RuntimeError)) and not isinstance(error, (fx.proxy.TraceError, NotImplementedError))
    return raised and last.partition(".")[0] not in ("torch", __name__.partition(".")[0])


def _is_zero(value: Any) -> bool:
    """A comparison with a proxy would be one more condition."""
    return type(value) is int and value == 0


@dataclass(frozen=True)
class Core:
    """Where queries meet keys. What is turned lies ``(…, D, N)``."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    out: fx.Node
    softmax: fx.Node
    bias: fx.Node | None
    factor: float | None
    """What products are multiplied with; None for the root of the width."""
    q_turned: bool = False
    k_turned: bool = False
    v_turned: bool = False
    passed: tuple[fx.Node, ...] = ()
    """Dropout and the like between the softmax and the values."""


def core_in(graph: fx.Graph) -> Core:
    """The one softmax attention of a graph.

    Raises:
        Unread: none or several, or logits that are no products of queries and keys with a bias.
    """
    node, fused = softmax_in(graph)
    if fused:
        if _argument(node, 5, "is_causal", False) is not False or _argument(node, 7, "enable_gqa", False):
            raise Unread("its attention is causal, or shares keys")
        q, k, v = (_argument(node, index, name, None) for index, name in enumerate(("query", "key", "value")))
        return Core(q, k, v, node, node, _argument(node, 3, "attn_mask", None), _argument(node, 6, "scale", None))
    product, bias, factor = _logits(node.args[0])
    out, v, turned, passed = values_met(node)
    # k of the product is always (…, D, N); whether q is turned is seen by its width
    return Core(product.args[0], product.args[1], v, out, node, bias, factor, k_turned=True, v_turned=turned, passed=passed)  # type: ignore[arg-type]


def not_one(count: int) -> str:
    """Of an attention with none or several."""
    return f"it computes {count} softmax attentions in a call{', mixed or one after the other' if count > 1 else ''}, and one is read"


def softmax_in(graph: fx.Graph) -> tuple[fx.Node, bool]:
    """The one softmax, and whether it is in PyTorch's kernel."""
    found = [node for node in graph.nodes if _called(node) in ("scaled_dot_product_attention", "softmax")]
    if len(found) != 1:
        raise Unread(not_one(len(found)))
    if any(_before(node, is_product) for node in changed_in_place(found[0])):
        raise Unread("its logits are changed in place, which is lost where products are exchanged; assign what the statement gives")
    return found[0], _called(found[0]) == "scaled_dot_product_attention"


def changed_in_place(end: fx.Node) -> list[fx.Node]:
    """Nodes on the way to another that a statement changes, such as ``logits.masked_fill_(mask, 0)``, whose result nobody takes."""
    way = {end, *_before(end, lambda node: True)}
    statements = [node for node in end.graph.nodes if node.op == "call_method" and not node.users and str(node.target).rstrip("_") + "_" == str(node.target)]
    return [node.args[0] for node in statements if node.args and node.args[0] in way]


def _before(node: fx.Node, wanted: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """Nodes that one is made of, and itself, of a kind."""
    seen, open_ = {node}, [node]
    while open_:
        new = [one for one in open_.pop().all_input_nodes if one not in seen]
        seen.update(new)
        open_ += new
    return [one for one in seen if wanted(one)]


def values_met(node: fx.Node) -> tuple[fx.Node, fx.Node, bool, tuple[fx.Node, ...]]:
    """Behind a softmax: its product with values, the values, whether they lie ``(…, D, N)`` in it, and what stands between.

    Raises:
        Unread: something else is done with the maps.
    """
    weights: Any = node
    users = _to_product(node)
    passed: list[fx.Node] = []
    while len(users) == 1 and _passes(users[0]):
        passed.append(users[0])
        weights, users = users[0], _to_product(users[0])
    if len(users) > 1:
        raise Unread("its maps are used more than once")
    turned = False
    if users and _called(users[0]) in ("transpose", "mT"):
        turned, weights, users = True, users[0], list(users[0].users)
    if len(users) != 1 or not is_product(users[0]) or weights is not users[0].args[1 if turned else 0]:
        raise Unread("its maps meet no values")
    return users[0], users[0].args[0 if turned else 1], turned, tuple(passed)  # type: ignore[return-value]


def _called(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target)) if node.graph.owning_module is not None else None
        return "softmax" if isinstance(module, nn.Softmax) else ""
    if node.op == "call_function":
        return str(node.args[1]) if node.target is getattr else getattr(node.target, "__name__", "")
    return ""


def _argument(node: fx.Node, index: int, name: str, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def is_product(node: Any) -> bool:
    return isinstance(node, fx.Node) and _called(node) in ("matmul", "bmm", "__matmul__")


def _passes(node: fx.Node) -> bool:
    if node.op == "call_module" and node.graph.owning_module is not None:
        return isinstance(node.graph.owning_module.get_submodule(str(node.target)), (nn.Dropout, nn.Identity))
    return _called(node) in ("dropout", "to", "type_as", "contiguous", "view", "reshape")


def _to_product(node: fx.Node) -> list[fx.Node]:
    """Users that lead to values; others only show the maps."""
    return [one for one in node.users if is_product(one) or ((_passes(one) or _called(one) in ("transpose", "mT")) and _to_product(one))]


def _logits(node: Any) -> tuple[fx.Node, fx.Node | None, float]:
    """Products, what is added to them, and what they are multiplied with."""
    if not isinstance(node, fx.Node):
        raise Unread("its softmax is over something else than products")
    if is_product(node):
        return node, None, 1.0
    name = _called(node).strip("_")
    if name in ("to", "float", "type_as", "contiguous"):
        return _logits(node.args[0])
    if name in ("mul", "imul", "truediv", "div"):
        for index, other in ((0, 1), (1, 0)):
            number = node.args[other]
            if isinstance(number, (int, float)) and not (index and name.endswith("div")):
                product, bias, factor = _logits(node.args[index])
                if bias is None:
                    return product, None, factor / number if name in ("truediv", "div") else factor * number
    if name in ("add", "iadd"):
        for index, other in ((0, 1), (1, 0)):
            if isinstance(node.args[other], fx.Node):
                try:
                    product, bias, factor = _logits(node.args[index])
                except Unread:
                    continue
                if bias is None:
                    return product, node.args[other], factor  # type: ignore[return-value]
    raise Unread(f"its logits are more than products and a bias ({name or node.op})")


def values_of(module: fx.GraphModule, values: dict[str, Any]) -> dict[fx.Node, Any]:
    """What every node is in one call."""
    out: dict[fx.Node, Any] = {}

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            out[n] = super().run_node(n)
            return out[n]

    with torch.no_grad():
        Noting(module, garbage_collect_values=False).run(*[values[str(node.target)] for node in module.graph.nodes if node.op == "placeholder"])
    return out
