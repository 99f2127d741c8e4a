"""Attentions that do more than attend: keys reduced, windows cut, maps with norms behind them, queries of their own. What they do beside goes on.

The host's forward is traced; what its maps take, where what they give goes, and what happens behind are read off the graph, followed number by number, and in
the graph the attention is exchanged for ours. Then numbers have to agree on other tokens, as for all that is read by structure.

Shapes     B samples or windows, H heads, N tokens, D head width, I = H·D
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._errors import InputError
from ...attention import SoftmaxAttention
from .._host import Host
from .._sources import settled
from .._transfer import build
from ._arguments import Call, bound
from ._body import Body, as_heads, asked, body, like_map, like_rows
from ._flow import Flow, Split, channels_first, numbered, split_of
from ._kept_place import Kept, Made, kept_place
from ._larger import larger
from ._mapped import NOTHING
from ._probe import Given, given_at_place
from ._seen import is_map, run, stirred
from ._trace import Core, Unread, core_in, is_open, traced, values_of

__all__ = ["kept_of"]

TOLERANCE = 1e-5
"""Of the output's largest number, in float32."""


def kept_of(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any = None) -> tuple[dict[int, Host], dict[int, str]]:
    """Hosts by the identity of their modules, and of the others what was missing.

    Args:
        model: with the modules; nothing of it is changed.
        modules: by name.
        inputs: a batch for the model; made up if None.
    """
    hosts: dict[int, Host] = {}
    reasons: dict[int, str] = {}
    given, _ = given_at_place(model, modules, inputs) if modules else ({}, "")
    for name, module in modules.items():
        if name not in given:
            continue
        devices = [value.device.index or 0 for value in module.parameters() if value.device.type == "cuda"]
        with torch.random.fork_rng(devices=sorted(set(devices))), torch.inference_mode(False), torch.no_grad():
            found = _found(module, given[name])
        if isinstance(found, str):
            reasons[id(module)] = found
        else:
            hosts[id(module)] = _host(found)
    return hosts, reasons


def _host(found: Kept) -> Host:
    return Host(lambda module, model, name: kept_place(module, found), lambda module, ours: body(module, ours, found.code, found.kept))


def _found(module: nn.Module, given: Given) -> Kept | str:
    call = bound(module, given)
    if isinstance(call, str):
        return call
    try:
        copy = stirred(module)
        seen = run(copy, call.given)
        other = _larger(copy, call)
        kept = _read(copy, other or call, {one.path for one in seen.maps})
        return _checked(copy, kept, [call] if other is None else [call, other])
    except (InputError, Unread) as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return f"it could not be traced ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


def _larger(copy: nn.Module, call: Call) -> Call | None:
    """The call with an image that the host takes as well, and that cannot be mistaken for one window; None where it takes no other."""
    for other in larger(call):
        try:
            run(deepcopy(copy), other.given)
        except RuntimeError:
            continue
        return other
    return None


def _read(copy: nn.Module, call: Call, maps: set[str]) -> Kept:
    # on copies: some hosts keep what they have computed
    training, evaluating = deepcopy(copy), deepcopy(copy)
    training.train()
    evaluating.eval()
    dropped = _dropped(training, core_in(_with_modules(training, traced(training, call, maps)).graph))
    drawn = _edited(deepcopy(training), call, maps)
    found = _edited(evaluating, call, maps)
    if drawn.code.source != found.code.source:
        raise Unread("it does something else in training, beside its attention")
    return replace(found, attn_drop=dropped)


def _with_modules(copy: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    own = dict(copy.named_modules())
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).rpartition(".")[0] not in own:
            raise Unread(f"its forward holds a tensor of its own ({node.target})")
    return fx.GraphModule(copy, graph)


def _dropped(copy: nn.Module, core: Core) -> float:
    rate = core.softmax.kwargs.get("dropout_p", core.softmax.args[4] if len(core.softmax.args) > 4 else 0.0) if core.softmax is core.out else 0.0
    rates = [rate if isinstance(rate, (int, float)) else 1.0]
    for node in core.passed:
        part = copy.get_submodule(str(node.target)) if node.op == "call_module" else None
        number = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5) if part is None and "dropout" in str(node.target) else 0.0
        rates.append(part.p if isinstance(part, nn.Dropout) else number)  # type: ignore[arg-type]
    found = [one for one in rates if one]
    if len(found) > 1 or any(not isinstance(one, (int, float)) or one >= 1 for one in found):
        raise Unread("its dropout cannot be told")
    return float(found[0]) if found else 0.0


def _edited(copy: nn.Module, call: Call, maps: set[str]) -> Kept:
    """The graph read, and its attention exchanged."""
    graph = _with_modules(copy, traced(copy, call, maps))
    training = copy.training
    copy.eval()
    values = values_of(graph, {**call.defaults, **call.values})
    copy.train(training)
    core = core_in(graph.graph)
    nodes = [node for node in graph.graph.nodes if node.op == "call_module" and is_map(copy.get_submodule(str(node.target)))]
    layers: dict[fx.Node, Any] = {node: copy.get_submodule(str(node.target)) for node in nodes}
    flow = Flow(graph, values, {node: numbered(values[node], channels_first(layers[node])) for node in nodes if isinstance(values[node], Tensor)})
    moved = [flow.of(node) for node in (core.q, core.k, core.v)]
    samples = next(value.shape[0] for value in call.tensors.values())
    # q of explicit products may lie (…, D, N) only together with its transposition, which is a move
    turned = (core.q_turned, core.k_turned, core.v_turned)
    splits = [split_of(one.index, layers[one.seed].weight.shape[0], turn, samples) for one, turn in zip(moved, turned, strict=True)]
    q, k, v = splits
    if len(k.places) != len(q.places) or len(v.places) != len(q.places) or k.places.shape != v.places.shape:
        raise Unread("its queries and keys are of other samples")
    if q.width != k.width or len({q.heads, k.heads, v.heads} - {1}) > 1 or v.width < q.width or moved[2].norm or moved[2].factor != 1.0:
        raise Unread("its queries, keys and values are of widths or heads that do not go together")
    heads, width = q.heads, v.width
    parts = [Made(str(one.seed.target), one.behind, _rows(split, heads, width), one.norm) for one, split in zip(moved, splits, strict=True)]
    if q.width < width and (parts[0].norm or parts[1].norm):
        raise Unread("its queries are narrower than its values, and normalised")
    factor = (core.factor if core.factor is not None else q.width**-0.5) * moved[0].factor * moved[1].factor
    takes: list[Any] = [one.seed.args[0] for one in moved]
    if core.bias is not None:
        _check_bias(flow, values, core, q, len(q.places))
    behind = _behind(graph, values, core, q, heads, width, takes[0], layers[moved[0].seed])
    end, proj = behind.node, behind.proj
    # exchanged
    asks, reads = _sources(takes[0], call), _sources(takes[2], call)
    edit = graph.graph
    with edit.inserting_before(end.next if behind.moved is None else core.out.next):
        made: dict[fx.Node, fx.Node] = {}
        tokens = []
        for node, one, split in zip(takes, moved, splits, strict=True):
            if node not in made:
                made[node] = _tokens(edit, node, values[node], layers[one.seed], split)
            tokens.append(made[node])
        others = takes[1] is not takes[0] or takes[2] is not takes[0]
        graph.add_module("attn", nn.Identity())
        attn = edit.create_node("get_attr", "attn")
        out = edit.call_function(asked, (attn, tokens[0], *((tokens[1], tokens[2]) if others else (None, None)), core.bias))
        if behind.moved is None:
            shaped = _shaped(edit, out, end, values, takes[0], layers[moved[0].seed])
        else:
            # the output map first: token by token, it is the same before tokens are moved and after
            like = next(node for node in edit.nodes if node.op == "placeholder" and isinstance(values[node], Tensor) and len(values[node]) == samples)
            cut = edit.call_function(as_heads, (out, like, heads, len(q.batch), q.axis))
            shaped = behind.moved
    if behind.moved is not None:
        core.out.replace_all_uses_with(cut)
    end.replace_all_uses_with(shaped)
    edit.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    left = [node.name for node in edit.nodes if node is core.softmax or node in {one.seed for one in moved}]
    if left:
        raise Unread("its maps make more than queries, keys and values, or its logits are used elsewhere")
    kept = tuple(dict.fromkeys(str(node.target) for node in edit.nodes if node.op in ("call_module", "get_attr") and node is not attn))
    taken = {path for part in parts for path in (part.path, part.norm, *(path for path, _ in part.behind))} | {proj, *behind.before}
    if any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for path in kept for one in taken if one):
        raise Unread("its maps make more than queries, keys and values, or are called twice")
    if any(path.split(".")[0] == "attn" for path in kept):
        raise Unread("a part of it that goes on is called attn")
    settings = {name: value for name, value in {**call.defaults, **call.values}.items() if not is_open(value)}
    return Kept(
        parts=(parts[0], parts[1], parts[2]),
        num_heads=heads,
        head_dim=width,
        factor=factor,
        proj=proj,
        reordered=behind.reordered,
        before_proj=behind.before,
        attn_drop=0.0,
        asks_apart=not asks & reads,
        reads_others=others,
        values_apart=takes[1] is not takes[2],
        biased=core.bias is not None,
        code=Body(edit, call.names, call.defaults, settings),
        kept=kept,
    )


def _rows(split: Split, heads: int, width: int) -> tuple[int, ...]:
    """Of all heads, where one serves all of them several times, and zeros up to the width."""
    rows = split.rows if split.heads == heads else split.rows * heads
    return tuple(row for head in rows for row in (*head, *[NOTHING] * (width - len(head))))


def _sources(node: fx.Node, call: Call) -> set[str]:
    """Arguments whose numbers a node is made of."""
    found, open_ = set(), [node]
    seen: set[fx.Node] = set()
    while open_:
        one = open_.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.op == "placeholder" and isinstance({**call.defaults, **call.values}.get(str(one.target)), Tensor):
            found.add(str(one.target))
        # the size of a tensor says nothing of its numbers
        shape = one.op == "call_function" and one.target is getattr and one.args[1] in ("shape", "device", "dtype", "ndim")
        size = one.op == "call_method" and one.target in ("size", "dim", "numel")
        if not shape and not size:
            open_ += one.all_input_nodes if one.target not in ("expand", "reshape", "view", "expand_as", "type_as", "to") else one.all_input_nodes[:1]
    return found


def _check_bias(flow: Flow, values: dict[fx.Node, Any], core: Core, q: Split, samples: int) -> None:
    assert core.bias is not None, "asked by the caller"
    bias = values[core.bias]
    if flow.depends[core.bias]:
        raise Unread("what is added to its logits is made of its queries")
    logits = (samples, q.heads)
    fits = isinstance(bias, Tensor) and len(q.batch) == 1 and not q.folded and q.axis == 1 and bias.ndim in (3, 4)
    if not fits or any(got not in (1, want) for got, want in zip(bias.shape[-4:-2], logits[4 - bias.ndim :], strict=True)):
        raise Unread("what is added to its logits is no bias of pairs a head")


def _tokens(edit: fx.Graph, node: fx.Node, value: Tensor, layer: Any, split: Split) -> fx.Node:
    """``(B, N, C)`` of what a map takes."""
    count = split.places.shape[0]
    if not torch.equal(split.places.flatten(), torch.arange(split.places.numel(), dtype=split.places.dtype)):
        raise Unread("windows are cut behind its maps")
    if channels_first(layer):
        if count != value.shape[0]:
            raise Unread("windows are cut behind its maps")
        return edit.call_method("transpose", (edit.call_method("flatten", (node, 2)), 1, 2)) if value.ndim > 2 else node
    lead = tuple(value.shape[:-1])
    cuts = [cut for cut in range(1, len(lead)) if prod(lead[:cut]) == count]
    cut = cuts[0] if cuts else 0
    if len(cuts) != 1:
        raise Unread("how many of its axes are windows cannot be told at this size")
    if len(lead) - cut > 1:
        node = edit.call_method("flatten", (node, cut, len(lead) - 1))
    return edit.call_method("flatten", (node, 0, cut - 1)) if cut > 1 else node


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


def _behind(graph: fx.GraphModule, values: dict[fx.Node, Any], core: Core, q: Split, heads: int, width: int, asks: fx.Node, layer: Any) -> Behind:
    """As far as numbers are only moved.

    Raises:
        Unread: tokens lie in an order there that is not followed.
    """
    samples, length = q.places.shape
    tokens = torch.arange(samples * length * heads * width, dtype=torch.float64).view(samples, length, heads, width)
    lies = q.back(tokens.transpose(1, 2), core.v_turned)
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
            if any(one.shape == shape and torch.equal(one, index) for one in _ways(flat, values[asks], layer)):
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
            square = part.weight.shape[0] == inner and not q.folded and not core.v_turned and len(q.batch) <= 2
            if whole and square and q.axis is not None:
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


def _ways(flat: Tensor, asks: Tensor, layer: Any) -> list[Tensor]:
    """``(B, N, I)``, and as the tokens that ask lie."""
    if channels_first(layer):
        return [flat, like_map(flat, asks)]
    return [flat, like_rows(flat, asks)] if asks.ndim != 3 else [flat]


def _shaped(edit: fx.Graph, out: fx.Node, end: fx.Node, values: dict[fx.Node, Any], asks: fx.Node, layer: Any) -> fx.Node:
    """Ours gives tokens; the host's next step takes what the host's attention gave."""
    first = channels_first(layer)
    if values[end].ndim == 3 and (not first or values[asks].ndim != 3):
        return out
    return edit.call_function(like_map if first else like_rows, (out, asks))


def _checked(copy: nn.Module, found: Kept, calls: list[Call]) -> Kept | str:
    """The same, if ours in its place gives what the copy gives, on tokens that nothing was found from, of all sizes."""
    copy.eval()
    place, _ = settled(replace(kept_place(copy, found), attn_drop=0.0, proj_drop=0.0), {}, None)
    ours, _ = build(SoftmaxAttention.Config(), place, "exact")
    other = body(copy, ours, found.code, found.kept)
    other.eval()
    for call, seed in product(calls, (3, 4)):
        again = call.fresh(set(call.tensors), seed)
        wanted, made = (_flat(part(**again.values)) for part in (copy, other))
        if len(wanted) != len(made) or any(have.shape != want.shape for have, want in zip(made, wanted, strict=True)):
            return "built from what was found, it gives other shapes"
        worst = max(float((have - want).abs().max() / want.abs().max().clamp_min(1e-12)) for have, want in zip(made, wanted, strict=True))
        if not worst <= TOLERANCE:
            return f"built from what was found, it differs by {worst:.1e} of its largest number"
    return found


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [one for part in value for one in _flat(part)] if isinstance(value, (tuple, list)) else []
