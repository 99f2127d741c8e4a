"""What a host does to its products of queries and keys before its softmax, whatever it is: a factor, and what is added. Anything else is refused.

The host's own steps are run on zeros instead of the products: what they give is the bias, also one that is made of queries, of a network or by a module.

Shapes     (…, Nq, Nk) logits, with heads and samples in front
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ._trace import Unread, is_product, values_of

__all__ = ["Between", "between_in", "gain_of", "made_again", "nothing_of"]

MIXED = "its heads mix their logits before the softmax (talking heads), which no attention here does"
_CLOSE = 1e-4
"""Of the logits' largest number."""


@dataclass(frozen=True)
class Between:
    """From the products to the softmax."""

    product: fx.Node
    steps: tuple[fx.Node, ...]
    """All that the products go through, in order; the last is what the softmax takes."""
    factor: float | None
    """None where it is a parameter's, and each call's own."""
    biased: bool


def nothing_of(q: Tensor, k: Tensor) -> Tensor:
    """Zeros in the place of ``q @ k``."""
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    return q.new_zeros(*lead, q.shape[-2], k.shape[-1])


def gain_of(of_ones: Tensor, of_zeros: Tensor) -> Tensor:
    """What products are multiplied with, ``(…, 1, 1)``: one number for all pairs of a head, seen where a pair is open; 0 where none is."""
    moved = torch.where(_is_open(of_ones, of_zeros), of_ones - of_zeros, torch.zeros_like(of_zeros))
    high, low = moved.amax((-2, -1), keepdim=True), moved.amin((-2, -1), keepdim=True)
    return torch.where(high >= -low, high, low)


def _is_open(made: Tensor, nothing: Tensor) -> Tensor:
    """Pairs that are not closed. Beside numbers that close them products are lost in rounding."""
    return nothing.isfinite() & made.isfinite() & (nothing.abs() < 1e4)


def between_in(graph: fx.GraphModule, end: fx.Node, values: dict[fx.Node, Any], inputs: dict[str, Any]) -> Between:
    """Between the one product that the softmax is over, and it.

    Raises:
        Unread: there is none, or it goes through something else than a factor and a bias.
    """
    found: list[Between] = []
    why = "its softmax is over something else than products"
    for product in _products_before(end):
        made = _factor(graph, product, end, values, inputs)
        if isinstance(made, Between):
            found.append(made)
        else:
            why = made
    if len(found) != 1:
        raise Unread(why if not found else "its softmax is over several products")
    return found[0]


def made_again(graph: fx.GraphModule, values: dict[fx.Node, Any], start: fx.Node, made: Tensor, end: fx.Node) -> Tensor:
    """What ``end`` is where ``start`` is ``made``, and all else what it was."""
    env: dict[fx.Node, Any] = {start: made.clone()}
    runner = fx.Interpreter(graph)

    def now(node: fx.Node) -> Any:
        return env[node] if node in env else values[node]

    with torch.no_grad():
        for node in _steps(graph, start, end):
            args, kwargs = (fx.node.map_arg(part, now) for part in (node.args, node.kwargs))
            env[node] = getattr(runner, node.op)(node.target, args, kwargs)
    return env[end]


def _steps(graph: fx.GraphModule, start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """Nodes on the way from one to the other, in order."""
    needed, open_ = {end}, [end]
    while open_:
        for one in open_.pop().all_input_nodes:
            if one not in needed:
                needed.add(one)
                open_.append(one)
    reached = {start}
    for node in graph.graph.nodes:
        if node is not start and any(one in reached for one in node.all_input_nodes):
            reached.add(node)
    return [node for node in graph.graph.nodes if node in needed and node in reached and node is not start]


def _products_before(end: fx.Node) -> Iterator[fx.Node]:
    """The last products on every way to a node."""
    seen, open_ = {end}, [end]
    while open_:
        node = open_.pop()
        if is_product(node):
            yield node
            continue
        for one in node.all_input_nodes:
            if one not in seen:
                seen.add(one)
                open_.append(one)


def _factor(graph: fx.GraphModule, product: fx.Node, end: fx.Node, values: dict[fx.Node, Any], inputs: dict[str, Any]) -> Between | str:
    like, steps = values[product], _steps(graph, product, end)
    if values[end].shape != like.shape:
        return "its products are put in another order before the softmax"
    called = [part for node in steps if node.op == "call_module" for part in graph.get_submodule(str(node.target)).modules()]
    asks_mode = any(one.op == "get_attr" and one.target == "training" for node in steps for one in node.all_input_nodes)
    if any(_differs_in_training(part) for part in called) or ((called or asks_mode) and _is_other_in_training(graph, values, product, end)):
        return "its logits are dropped or normalized in training, which no attention here does"
    source = torch.Generator().manual_seed(5)
    probe = torch.randn(like.shape, generator=source).to(like.device)

    def through(made: Tensor) -> Tensor:
        return made_again(graph, values, product, made, end)

    gain = _gain(through, probe)
    if gain is None:
        return MIXED if _is_linear(through, probe) else "its logits are more than a factor times products and a bias"
    other = _stirred(graph)
    again = values_of(other, inputs)
    same = {node.name: node for node in other.graph.nodes}
    second = _gain(lambda made: made_again(other, again, same[product.name], made, same[end.name]), probe)
    fixed = second is not None and torch.allclose(gain, second, rtol=1e-4) and torch.allclose(gain, gain.flatten()[0].expand_as(gain), rtol=1e-4)
    # a size is another in another call
    sized = any(isinstance(values[one], (int, float)) for node in steps for one in node.all_input_nodes)
    fixed = fixed and not sized
    inside = {product, *steps}
    tensors = [one for node in steps for one in node.all_input_nodes if one not in inside and isinstance(values[one], Tensor)]
    held = [node for node in steps if node.op == "call_module" and _has_state(graph, node)]
    # pairs may also be closed by numbers that are no tensor of the host's
    biased = bool(tensors or held) or bool((through(torch.zeros_like(probe)) != 0).any())
    return Between(product, tuple(steps), round(float(gain.flatten()[0]), 7) if fixed else None, biased)


def _gain(through: Callable[[Tensor], Tensor], probe: Tensor) -> Tensor | None:
    """``(…, 1, 1)``; None where no factor a head explains what becomes of the products."""
    nothing, made = through(torch.zeros_like(probe)), through(probe)
    open_ = _is_open(made, nothing)
    moved = torch.where(open_, made - nothing, torch.zeros_like(made))
    given = torch.where(open_, probe, torch.zeros_like(probe))
    gain = (moved * given).sum((-2, -1), keepdim=True) / given.square().sum((-2, -1), keepdim=True).clamp_min(1e-12)
    close = float((moved - gain * given).abs().max()) <= _CLOSE * float(moved.abs().max())
    return gain if close and bool((gain > 0).all()) else None


def _is_linear(through: Callable[[Tensor], Tensor], probe: Tensor) -> bool:
    """Whether twice the products make twice the logits, whatever is mixed."""
    nothing, once, twice = (through(times * probe) for times in (0, 1, 2))
    return bool(nothing.isfinite().all()) and float((twice - 2 * once + nothing).abs().max()) <= _CLOSE * float((once - nothing).abs().max())


@torch.no_grad()
def _stirred(graph: fx.GraphModule) -> fx.GraphModule:
    """With other parameters, and other buffers where the code takes them itself: a factor that is one of them is another then."""
    other = deepcopy(graph)
    source = torch.Generator().manual_seed(9)
    taken = {str(node.target) for node in other.graph.nodes if node.op == "get_attr"}
    buffers = [value for path, value in other.named_buffers() if path in taken and value.is_floating_point()]
    for value in (*other.parameters(), *buffers):
        value.add_(0.1 * torch.randn(value.shape, generator=source).to(value.device))
    return other


def _differs_in_training(part: nn.Module) -> bool:
    return isinstance(part, _NormBase) or (isinstance(part, _DropoutNd) and part.p > 0)


def _is_other_in_training(graph: fx.GraphModule, values: dict[fx.Node, Any], product: fx.Node, end: fx.Node) -> bool:
    """By what is made of the same products."""
    other = deepcopy(graph).train()
    same = {node.name: node for node in other.graph.nodes}
    again = {same[node.name]: True if node.op == "get_attr" and node.target == "training" else value for node, value in values.items()}
    with torch.random.fork_rng(devices=[]):
        made = made_again(other, again, same[product.name], values[product], same[end.name])
    return not torch.allclose(made, made_again(graph, values, product, values[product], end), equal_nan=True)


def _has_state(graph: fx.GraphModule, node: fx.Node) -> bool:
    part = graph.get_submodule(str(node.target))
    return next(part.parameters(), None) is not None or next(part.buffers(), None) is not None
