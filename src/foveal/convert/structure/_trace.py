"""The softmax attention in the graph of a host's ``forward``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["Core", "Unread", "changed_in_place", "core_in", "is_product", "not_one", "softmax_in", "values_met", "values_of"]

_SIZES = ("shape", "size", "dim", "ndim", "numel", "device", "dtype")
"""What says nothing of numbers."""


class Unread(Exception):
    """Why a host's forward could not be read."""


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
    softcap: float | None = None
    """Logits are kept within it by a hyperbolic tangent, before the bias."""
    shown: tuple[fx.Node, ...] = ()
    """Those of the softmax and what follows whose map the host hands on as well."""


def core_in(graph: fx.Graph, values: dict[fx.Node, Any]) -> Core:
    """The one softmax attention of a graph.

    Args:
        graph: of a call.
        values: what every node was in it.

    Raises:
        Unread: none or several, or logits that are no products of queries and keys with a bias.
    """
    node, fused = softmax_in(graph)
    if fused:
        if _argument(node, 5, "is_causal", False) is not False or _argument(node, 7, "enable_gqa", False):
            raise Unread("its attention is causal, or shares keys")
        q, k, v = (_argument(node, index, name, None) for index, name in enumerate(("query", "key", "value")))
        return Core(q, k, v, node, node, _argument(node, 3, "attn_mask", None), _argument(node, 6, "scale", None))
    product, bias, factor, softcap = _logits(node.args[0], values)
    q, k = product.args[0], product.args[1]
    met = values_met(node)
    # k of the product is always (…, D, N); whether q is turned is seen by its width
    return Core(q, k, met.v, met.out, node, bias, factor, k_turned=True, v_turned=met.turned, passed=met.passed, shown=met.shown, softcap=softcap)  # type: ignore[arg-type]


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


@dataclass(frozen=True)
class Behind:
    """What becomes of the map."""

    out: fx.Node
    """Its product with values."""
    v: fx.Node
    turned: bool
    """Whether values lie ``(…, D, N)`` in it."""
    passed: tuple[fx.Node, ...]
    shown: tuple[fx.Node, ...]


def changed_in_place(end: fx.Node) -> list[fx.Node]:
    """Nodes on the way to another that are changed by what is called later, such as ``logits.masked_fill_(mask, 0)``, and not by its result alone.

    Seen by PyTorch's own count of changes where :func:`values_of` has run: also through views, and by functions that change what they are given.
    """
    way, order = {end, *_before(end, lambda node: True)}, {node: index for index, node in enumerate(end.graph.nodes)}
    found = []
    for node in end.graph.nodes:
        statement = node.op == "call_method" and not node.users and str(node.target).rstrip("_") + "_" == str(node.target)
        found += [one for one in node.args[:1] if statement and one in way]
        for one in node.meta.get(CHANGES, ()):
            if one in way and any(user in way and order[user] > order[node] and _called(user) not in _SIZES for user in one.users):
                found.append(one)
    return found


def _before(node: fx.Node, wanted: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """Nodes that one is made of, and itself, of a kind."""
    seen, open_ = {node}, [node]
    while open_:
        new = [one for one in open_.pop().all_input_nodes if one not in seen]
        seen.update(new)
        open_ += new
    return [one for one in seen if wanted(one)]


def values_met(node: fx.Node) -> Behind:
    """What follows a softmax.

    Raises:
        Unread: something else is done with the maps.
    """
    weights: Any = node
    passed: list[fx.Node] = []
    shown: list[fx.Node] = []
    while True:
        users = _to_product(weights)
        if len(users) != 1:
            raise Unread("its maps meet no values" if not users else "its maps are used more than once")
        if any(user not in users and _called(user) not in _SIZES for user in weights.users):
            shown.append(weights)
        if not _passes(users[0]):
            break
        passed.append(users[0])
        weights = users[0]
    turned = False
    if _called(users[0]) in ("transpose", "mT"):
        turned, weights, users = True, users[0], list(users[0].users)
    if len(users) != 1 or not is_product(users[0]) or weights is not users[0].args[1 if turned else 0]:
        raise Unread("its maps meet no values")
    return Behind(users[0], users[0].args[0 if turned else 1], turned, tuple(passed), tuple(shown))  # type: ignore[arg-type]


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


def _logits(node: Any, values: dict[fx.Node, Any]) -> tuple[fx.Node, fx.Node | None, float, float | None]:
    """Products, what is added to them, what they are multiplied with, and within what they are kept."""
    if not isinstance(node, fx.Node):
        raise Unread("its softmax is over something else than products")
    if is_product(node):
        return node, None, 1.0, None
    name = _called(node).strip("_")
    if name in ("to", "float", "type_as", "contiguous"):
        return _logits(node.args[0], values)
    if name in ("mul", "imul", "truediv", "div"):
        for index, other in ((0, 1), (1, 0)):
            number = _number(node.args[other], values)
            if number is not None and not (index and name.endswith("div")):
                product, bias, factor, cap = _logits(node.args[index], values)
                if bias is None:
                    number = 1 / number if name in ("truediv", "div") else number
                    return product, None, factor * number, cap if cap is None else cap * number
    if name == "tanh":
        product, bias, factor, cap = _logits(node.args[0], values)
        if bias is None and cap is None:
            return product, None, factor, 1.0
    if name in ("add", "iadd"):
        for index, other in ((0, 1), (1, 0)):
            if isinstance(node.args[other], fx.Node):
                try:
                    product, bias, factor, cap = _logits(node.args[index], values)
                except Unread:
                    continue
                if bias is None:
                    return product, node.args[other], factor, cap  # type: ignore[return-value]
    raise Unread(f"its logits are more than products and a bias ({name or node.op})")


def _number(value: Any, values: dict[fx.Node, Any]) -> float | None:
    """A number, also one that is made of the width of heads: of the last axis of what is no map of pairs."""
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, fx.Node) or type(values.get(value)) not in (int, float):
        return None
    open_, seen = [value], set[fx.Node]()
    while open_:
        node = open_.pop()
        if node in seen:
            continue
        seen.add(node)
        asked = node.args[0] if node.args else None
        if _called(node) == "getitem" and isinstance(asked, fx.Node) and _called(asked) in ("shape", "size"):
            tensor: Any = values[asked.args[0]]  # type: ignore[index]
            if node.args[1] not in (-1, tensor.ndim - 1) or tensor.ndim < 3:
                return None
        elif _called(node) == "size":
            if len(node.args) < 2 or node.args[1] not in (-1, values[asked].ndim - 1):  # type: ignore[index]
                return None
        elif node.op == "placeholder" or isinstance(values.get(node), Tensor):
            return None
        else:
            open_ += node.all_input_nodes
    return float(values[value])


CHANGES = "what it changes in place"
"""A mark on nodes."""


def _overlap(value: Tensor, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Whether a tensor has a number that one which the node was given has: views of one tensor share a count of changes, whatever part of it is changed."""
    places = _places(value)
    given = [values[one] for one in node.all_input_nodes if isinstance(values.get(one), Tensor)]
    shared = [one for one in given if one.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()]
    # of no numbers at this size there may be some at another
    return any(not one.numel() or bool(torch.isin(_places(one), places).any()) for one in shared)


def _places(value: Tensor) -> Tensor:
    """Of its numbers in memory."""
    places = torch.tensor(value.storage_offset())
    for size, step in zip(value.shape, value.stride(), strict=True):
        places = places.unsqueeze(-1) + step * torch.arange(size)
    return places.flatten()


def values_of(module: fx.GraphModule, values: dict[str, Any]) -> dict[fx.Node, Any]:
    """What every node is in one call."""
    out: dict[fx.Node, Any] = {}

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            counts = {one: value._version for one, value in out.items() if isinstance(value, Tensor)}
            # as in evaluation, whatever the mode
            out[n] = False if n.op == "get_attr" and n.target == "training" else super().run_node(n)
            n.meta[CHANGES] = [one for one, count in counts.items() if out[one]._version != count and _overlap(out[one], n, out)]
            return out[n]

    with torch.no_grad():
        Noting(module, garbage_collect_values=False).run(*[values[str(node.target)] for node in module.graph.nodes if node.op == "placeholder"])
    return out
