"""Attentions whose host makes queries, keys and values in ways that are no linear map: pooled, gated, normalized or turned behind their maps.

All of that goes on as the host's, and so do its output map and what it adds to its logits. Where queries meet keys ours takes over, on heads that are made.

Shapes     B samples or windows, H heads, N tokens, D head width, (…) axes of samples, windows and heads as the host has them
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...attention._apart import Apart
from .._host import Place
from .._parts import Scaled
from ._arguments import Call
from ._between import Between, between_in, gain_of, made_again, nothing_of
from ._body import Body, asked, shown
from ._exchange import dropped_in, sources_in, with_modules
from ._handed import check_shown, hand_on, in_order
from ._kept_place import ONE_ASKS
from ._mapped import NoMap
from ._seen import is_map
from ._shadow import shadowed
from ._symbolic import Ways, traced
from ._trace import Core, Unread, core_in, softmax_in, values_met, values_of

__all__ = ["Cored", "cored_in", "cored_place"]

NOTE = "queries, keys, values and output stay its host's, and what stands between them is exchanged"


@dataclass(frozen=True)
class Cored:
    """What was found of a host: heads where queries meet keys, and the code around them."""

    num_heads: int
    head_dim: int
    factor: float
    attn_drop: float
    asks_apart: bool
    biased: bool
    like: str
    """A map of the host, by path: ours has its dtype and device."""
    code: Body
    kept: tuple[str, ...]
    one_asks: bool


@dataclass(frozen=True)
class Heads:
    """How a host has its heads."""

    count: int
    axis: int | None
    """Which axis they are; None where there is none, or samples and heads are one."""
    folded: bool


def cored_place(module: nn.Module, found: Cored) -> Place:
    inner, like = found.num_heads * found.head_dim, module.get_submodule(found.like)
    factor = found.factor * found.head_dim**0.5
    return Place(
        dim=inner,
        num_heads=found.num_heads,
        head_dim=found.head_dim,
        qkv=Apart(NoMap(inner, like), NoMap(inner, like), NoMap(inner, like)),
        proj=NoMap(inner, like),
        q_norm=Scaled(nn.Identity(), factor) if abs(factor - 1) > 1e-5 else nn.Identity(),
        attn_drop=found.attn_drop,
        no_grid="where its host cuts, reduces or pools them",
        windows=None,
        needs_pairs="a bias is added to each pair of its tokens" if found.biased else "",
        reads_others="its queries, keys and values are made by its host",
        asks_apart=found.asks_apart,
        notes=(NOTE, ONE_ASKS) if found.one_asks and not found.asks_apart else (NOTE,),
        checked=True,
    )


def cored_in(copy: nn.Module, call: Call, maps: set[str]) -> Cored:
    """Read from one call.

    Raises:
        Unread: no softmax of products of queries and keys over tokens.
    """
    # on copies: some hosts keep what they have computed
    training, evaluating = deepcopy(copy), deepcopy(copy)
    training.train()
    evaluating.eval()
    drawn, ways = _edited(training, call, maps, None)
    found, _ = _edited(evaluating, call, maps, ways)
    if drawn.code.source != found.code.source:
        raise Unread("it does something else in training, beside its attention")
    return replace(found, attn_drop=drawn.attn_drop)


def _edited(copy: nn.Module, call: Call, maps: set[str], ways: Ways | None) -> tuple[Cored, Ways]:
    made, ways = traced(copy, call, maps, ways)
    graph = with_modules(copy, made)
    training, inputs = copy.training, {**call.defaults, **call.values}
    copy.eval()
    values = values_of(graph, inputs)
    core, between = _core(graph, values, inputs)
    v_map = next(iter(_maps_before(graph, core.v)), None)
    if v_map is None:
        raise Unread("no linear map makes its values")
    heads = _heads(graph, values, core, v_map)
    copy.train(training)
    q, k, v = values[core.q], values[core.k].mT if core.k_turned else values[core.k], values[core.v].mT if core.v_turned else values[core.v]
    width = v.shape[-1]
    if q.shape[-1] != k.shape[-1] or q.shape[-1] > width:
        raise Unread("its queries are wider than its values")
    if any(part.ndim != q.ndim or any(have not in (1, want) for have, want in zip(part.shape[:-2], q.shape[:-2], strict=True)) for part in (k, v)):
        raise Unread("its queries and keys are of other samples")
    attn_drop = dropped_in(copy, core)
    factor = core.factor if core.factor is not None else q.shape[-1] ** -0.5
    edit = graph.graph
    # what nobody reads is called for what it does to its arguments, or asks
    effects = {node for node in edit.nodes if not node.users and node.op in ("call_function", "call_method")}
    graph.add_module("attn", nn.Identity())
    bias, asks = core.bias, core.q
    if between is not None:
        bias, asks = _without_products(edit, core, between)
    with edit.inserting_before(core.out):
        lie = (heads.count, heads.axis, heads.folded)
        parts = ((asks, False), (core.k, core.k_turned), (core.v, core.v_turned))
        tokens = [edit.call_function(as_tokens, (node, core.q, *lie, turned, width)) for node, turned in parts]
        pairs = None if bias is None else edit.call_function(as_pairs, (bias, core.q, *lie))
        options = (edit.create_node("get_attr", "attn"), *tokens, pairs)
        out = edit.call_function(asked, options)
        formed = edit.call_function(as_hosts, (out, core.q, *lie, core.v_turned))
        if any(_is_tensor(values)(one) for node in effects for one in node.args):
            # a kernel keeps what it gave for its gradient
            formed = edit.call_method("clone", (formed,))
        if core.shown:
            hand_on(edit, core, edit.call_function(map_as_hosts, (edit.call_function(shown, options), core.q, *lie)))
    core.out.replace_all_uses_with(formed)
    in_order(edit)
    edit.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output") or node in effects)
    check_shown(edit, map_as_hosts)
    if between is not None:
        shadowed(edit, values, {}, {between.product})
    if any(node is core.softmax for node in edit.nodes):
        raise Unread("its maps are used elsewhere")
    kept = tuple(dict.fromkeys(str(node.target) for node in edit.nodes if node.op in ("call_module", "get_attr") and node.target not in ("attn", "training")))
    if any(path.split(".")[0] == "attn" for path in kept):
        raise Unread("a part of it that goes on is called attn")
    opened = {str(node.target) for node in edit.nodes if node.op == "placeholder"}
    settings = {name: value for name, value in inputs.items() if name not in opened}
    found = Cored(
        num_heads=heads.count,
        head_dim=width,
        factor=factor,
        attn_drop=attn_drop,
        asks_apart=not sources_in(core.q, call) & sources_in(core.v, call),
        biased=bias is not None,
        like=str(v_map.target),
        code=Body(edit, call.names, call.defaults, settings, None, ways.left),
        kept=kept,
        one_asks=q.shape[-2] == 1 < k.shape[-2],
    )
    return found, ways


def _is_tensor(values: dict[fx.Node, Any]) -> Callable[[Any], bool]:
    return lambda one: isinstance(one, fx.Node) and isinstance(values[one], Tensor)


def _core(graph: fx.GraphModule, values: dict[fx.Node, Any], inputs: dict[str, Any]) -> tuple[Core, Between | None]:
    """Where queries meet keys, and what is done to their products; None in PyTorch's kernel, which says it itself."""
    node, fused = softmax_in(graph.graph)
    if fused:
        return core_in(graph.graph, values), None
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    logits: Any = node.args[0]
    if node.op == "call_module":
        dim = graph.get_submodule(str(node.target)).dim  # type: ignore[assignment]
    if dim not in (-1, values[logits].ndim - 1):
        raise Unread("its softmax is over something else than keys")
    between = between_in(graph, logits, values, inputs)
    met = values_met(node)
    q, k = between.product.args[:2]
    factor = 1.0 if between.factor is None else between.factor
    # numbers are enough for the rest: how the products are multiplied is told, and what is added is what the steps make of zeros
    return Core(q, k, met.v, met.out, node, None, factor, k_turned=True, v_turned=met.turned, passed=met.passed, shown=met.shown), between  # type: ignore[arg-type]


def _without_products(edit: fx.Graph, core: Core, between: Between) -> tuple[fx.Node | None, fx.Node]:
    """What the steps make of zeros; and the queries, times a factor that is a parameter's."""
    if not between.biased and between.factor is not None:
        return None, core.q
    with edit.inserting_after(between.product):
        zeros = edit.call_function(nothing_of, (core.q, core.k))
    first: dict[fx.Node, fx.Node] = {between.product: zeros}
    asks = core.q
    if between.factor is None:
        with edit.inserting_before(core.softmax):
            ones = edit.call_function(torch.ones_like, (zeros,))
            second: dict[fx.Node, fx.Node] = {between.product: ones}
            for step in between.steps:
                second[step] = edit.node_copy(step, lambda one: second.get(one, one))
    with edit.inserting_before(core.softmax):
        for step in between.steps:
            first[step] = edit.node_copy(step, lambda one: first.get(one, one))
        end = between.steps[-1] if between.steps else between.product
        if between.factor is None:
            asks = edit.call_function(torch.mul, (core.q, edit.call_function(gain_of, (second[end], first[end]))))
    return (first[end] if between.biased else None), asks


def _maps_before(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The last linear maps on every way to a node."""
    found, seen, open_ = [], {node}, [node]
    while open_:
        one = open_.pop()
        if one.op == "call_module" and is_map(graph.get_submodule(str(one.target))):
            found.append(one)
            continue
        new = [other for other in one.all_input_nodes if other not in seen]
        seen.update(new)
        open_ += new
    return found


def _heads(graph: fx.GraphModule, values: dict[fx.Node, Any], core: Core, v_map: fx.Node) -> Heads:
    """Where a row of the map that makes values goes: to one head, and to all tokens, or it is no attention over tokens."""
    made = values[v_map]
    rows = 1 if isinstance(graph.get_submodule(str(v_map.target)), (nn.Conv1d, nn.Conv2d)) else made.ndim - 1
    source = torch.Generator().manual_seed(13)
    before = values[core.v]
    for row in reversed(range(made.shape[rows])):
        other = made.clone()
        part = other.select(rows, row)
        part.add_(3 * torch.randn(part.shape, generator=source).to(part.device) + 6)
        moved = (made_again(graph, values, v_map, other, core.v) - before).abs() > 1e-5
        if not moved.any():
            continue
        moved = moved.mT if core.v_turned else moved
        lead = range(moved.ndim - 2)
        if float(_along(moved, moved.ndim - 2).float().mean()) <= 0.5:
            raise Unread("its softmax is over channels, and not over tokens")
        narrow = [axis for axis in lead if not _along(moved, axis).all()]
        if not narrow:
            return Heads(1, None, False)
        one = _along(moved, narrow[0])
        count = len(one) // int(one.sum())
        if len(narrow) > 1 or not torch.equal(one, (torch.arange(len(one), device=one.device) % count) == int(one.nonzero()[0])):
            raise Unread("its heads lie along several axes")
        folded = int(one.sum()) > 1 or (moved.ndim == 3 and len(one) != count)
        if folded and moved.ndim != 3:
            raise Unread("its heads lie along several axes")
        return Heads(count, None if moved.ndim == 3 else narrow[0], moved.ndim == 3)
    raise Unread("no row of a linear map is seen in its values")


def _along(moved: Tensor, axis: int) -> Tensor:
    return moved.movedim(axis, 0).flatten(1).any(1)


# -- in the host's code ------------------------------------------------------------------------------------------------------------------------------


def as_tokens(x: Tensor, like: Tensor, heads: int, axis: int | None, folded: bool, turned: bool, width: int) -> Tensor:
    """Heads of the host, ``(…, N, D)``, as ours takes tokens, ``(B, N, H · width)``; narrower ones with zeros behind."""
    x = x.mT if turned else x
    x = x.expand(*like.shape[:-2], *x.shape[-2:])
    if folded:
        x = x.unflatten(0, (-1, heads))
    elif axis is None:
        x = x.reshape(-1, 1, *x.shape[-2:])
    else:
        x = x.movedim(axis, -3)
        x = x.reshape(-1, *x.shape[-3:])
    return F.pad(x, (0, width - x.shape[-1])).transpose(1, 2).flatten(2)


def as_hosts(out: Tensor, like: Tensor, heads: int, axis: int | None, folded: bool, turned: bool) -> Tensor:
    """The way back, ``like`` the queries of the host."""
    out = map_as_hosts(out.unflatten(-1, (heads, -1)).transpose(1, 2), like, heads, axis, folded)
    return out.mT if turned else out


def map_as_hosts(x: Tensor, like: Tensor, heads: int, axis: int | None, folded: bool) -> Tensor:
    """``(B, H, Nq, …)`` as the host has its heads, ``like`` its queries."""
    if folded:
        return x.flatten(0, 1)
    if axis is None:
        return x.reshape(*like.shape[:-1], x.shape[-1])
    lead = [size for index, size in enumerate(like.shape[:-2]) if index != axis]
    return x.reshape(*lead, *x.shape[-3:]).movedim(-3, axis)


def as_pairs(bias: Tensor, like: Tensor, heads: int, axis: int | None, folded: bool) -> Tensor:
    """``(B or 1, H or 1, Nq, Nk)``."""
    bias = bias[(None,) * (like.ndim - bias.ndim)]
    if folded:
        return bias[None] if bias.shape[0] == 1 else bias.unflatten(0, (-1, heads))
    bias = bias.unsqueeze(-3) if axis is None else bias.movedim(axis, -3)
    rest = [size for index, size in enumerate(like.shape[:-2]) if index != axis]
    if all(size == 1 for size in bias.shape[:-3]):
        return bias.reshape(1, *bias.shape[-3:])
    return bias.expand(*rest, *bias.shape[-3:]).reshape(-1, *bias.shape[-3:])
