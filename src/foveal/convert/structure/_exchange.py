"""In the graph of a host its attention is exchanged for ours, and all that it does beside stays.

Shapes     B samples or windows, H heads, N tokens, D head width, I = H·D
"""

from copy import deepcopy
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from ._arguments import Call
from ._behind import behind_of, shaped
from ._body import Body, as_heads, asked, shown, side_by_side
from ._cut import Cut, cut_of
from ._flow import Flow, Split, channels_first, numbered
from ._gathered import gathered
from ._handed import above, check_shown, hand_on, in_order
from ._kept_place import Kept, Made
from ._mapped import NOTHING, NoMap
from ._seen import is_map
from ._shadow import shadowed
from ._symbolic import Ways, swept, traced
from ._trace import Core, Unread, changed_in_place, core_in, values_of
from ._turned import Lies, heads_as_host, lies_of, turning

__all__ = ["dropped_in", "kept_in", "sources_in", "with_modules"]


def kept_in(copy: nn.Module, call: Call, maps: set[str]) -> Kept:
    # on copies: some hosts keep what they have computed
    training, evaluating = deepcopy(copy), deepcopy(copy)
    training.train()
    evaluating.eval()
    graph, ways = traced(training, call, maps)
    whole = with_modules(training, graph)
    training.eval()
    values = values_of(whole, {**call.defaults, **call.values})
    training.train()
    dropped = dropped_in(training, core_in(whole.graph, values))
    drawn = _edited(deepcopy(training), call, maps, ways)
    found = _edited(evaluating, call, maps, ways)
    if drawn.code.source != found.code.source:
        raise Unread("it does something else in training, beside its attention")
    return replace(found, attn_drop=dropped)


def with_modules(copy: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    own = dict(copy.named_modules())
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).rpartition(".")[0] not in own:
            raise Unread(f"its forward holds a tensor of its own ({node.target})")
    return fx.GraphModule(copy, graph)


def dropped_in(copy: nn.Module, core: Core) -> float:
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


def _edited(copy: nn.Module, call: Call, maps: set[str], ways: Ways) -> Kept:
    """The graph read, and its attention exchanged."""
    graph = with_modules(copy, traced(copy, call, maps, ways)[0])
    training = copy.training
    copy.eval()
    values = values_of(graph, {**call.defaults, **call.values})
    copy.train(training)
    core = core_in(graph.graph, values)
    if changed_in_place(core.out):
        raise Unread("what is made of its maps is changed in place")
    nodes = [node for node in graph.graph.nodes if node.op == "call_module" and is_map(copy.get_submodule(str(node.target)))]
    layers: dict[fx.Node, Any] = {node: copy.get_submodule(str(node.target)) for node in nodes}
    flow = Flow(graph, values, {node: numbered(values[node], channels_first(layers[node])) for node in nodes if isinstance(values[node], Tensor)})
    samples = next(value.shape[0] for value in call.tensors.values())
    given = _without_map(flow, core, values, samples)
    if given:
        layers |= {node: NoMap(values[node].shape[-1], next(iter(layers.values()))) for node in given}
        flow = Flow(graph, values, flow.seeds | {node: numbered(values[node], False) for node in given})

    def samples_of(seed: fx.Node) -> int:
        # where tokens come first and samples after them, they are turned before the map
        return samples if len(values[seed]) % samples == 0 else len(values[seed])

    cuts = cut_of(graph, values, flow, core, {node: layer.weight.shape[0] for node, layer in layers.items()}, samples_of)
    q, k, v = cuts
    heads, width = q.split.heads, v.split.width
    # what is turned lies as values do where they meet
    frame = q.split if q.met is None else v.split
    count = q.split.places.shape[1] if q.met is None else values[q.met].shape[-2]
    pooled = count != q.split.places.shape[1]
    parts = [Made("" if one.seed in given else str(one.seed.target), one.moved.behind, _rows(one.split, heads, width), one.moved.norm) for one in cuts]
    factor = (core.factor if core.factor is not None else q.split.width**-0.5) * q.moved.factor * k.moved.factor
    takes: list[Any] = [one.seed if one.seed in given else one.seed.args[0] for one in cuts]
    first = [channels_first(layers[one.seed]) for one in cuts]
    if core.bias is not None:
        _check_bias(flow, values, core, frame, len(q.split.places), heads)
    of_asks = takes[0] if q.in_order and not pooled else None
    behind = behind_of(graph, values, core, frame, (len(q.split.places), count), heads, width, None if of_asks is None else values[of_asks], layers[q.seed])
    end, proj = behind.node, behind.proj
    # exchanged
    streams = _streams(cuts, values, layers)
    if streams is not None and given:
        raise Unread("its queries are no map's, and its keys are several maps'")
    if streams is not None:
        parts = [
            replace(part, others=tuple(str(seed.target) for seed in one.moved.others), streams=tuple(streams.index(seed.args[0]) for seed in one.moved.seeds))  # type: ignore[arg-type]
            for part, one in zip(parts, cuts, strict=True)
        ]
    asks, reads = sources_in(takes[0], call), sources_in(takes[2], call)
    edit = graph.graph
    with edit.inserting_before(end.next if behind.moved is None else core.out.next):
        like = next(node for node in edit.nodes if node.op == "placeholder" and isinstance(values[node], Tensor) and len(values[node]) == samples)
        made: dict[Any, fx.Node] = {}
        tokens: list[fx.Node] = []
        for node, one, is_first in zip(takes, cuts, first, strict=True):
            key = node if streams is None else None
            if one.in_order:
                made.setdefault(key, _streamed(edit, streams) if streams is not None else _tokens(edit, node, values[node], layers[one.seed], one.split))
                tokens.append(made[key])
            elif streams is not None:
                raise Unread("windows are cut behind several maps whose numbers are added")
            else:
                lies = next((known for known in made if isinstance(known, tuple) and known[0] is node and torch.equal(known[1], one.split.places)), None)
                if lies is None:
                    lies = (node, one.split.places)
                    made[lies] = gathered(edit, flow, node, one.seed, one.end, one.split.heads, one.lies.told(), one.turned, is_first)
                tokens.append(made[lies])
        others = tokens[1] is not tokens[0] or tokens[2] is not tokens[0]
        graph.add_module("attn", nn.Identity())
        attn = edit.create_node("get_attr", "attn")
        turns = [_turn(graph, name, one, like, lies_of(v.split), heads) for name, one in zip(TURNS, (q, k), strict=True)]
        options = (attn, tokens[0], *((tokens[1], tokens[2]) if others else (None, None)), core.bias, *turns)
        out = edit.call_function(asked, options)
        if core.shown:
            of_pairs = edit.call_function(heads_as_host, (edit.call_function(shown, options), like, (len(frame.batch), frame.axis, frame.folded, False)))
            hand_on(edit, core, of_pairs)
        if behind.moved is None:
            formed = shaped(edit, out, end, values, of_asks, layers[q.seed])
        else:
            # the output map first: token by token, it is the same before tokens are moved and after
            cut = edit.call_function(as_heads, (out, like, heads, len(frame.batch), frame.axis))
            formed = behind.moved
    if behind.moved is not None:
        core.out.replace_all_uses_with(cut)
    end.replace_all_uses_with(formed)
    in_order(edit)
    swept(edit, {node for node in above(core.out) if flow.depends.get(node)})
    check_shown(edit, heads_as_host)
    seeds = {seed: (flow.seeds[seed].shape[1 if is_first else -1], is_first) for one, is_first in zip(cuts, first, strict=True) for seed in one.moved.seeds}
    seeds = {seed: told for seed, told in seeds.items() if seed not in given}
    shadowed(edit, values, seeds)
    left = [node.name for node in edit.nodes if node is core.softmax or node in seeds]
    if left:
        raise Unread("its maps make more than queries, keys and values, or its logits are used elsewhere")
    kept = tuple(dict.fromkeys(str(node.target) for node in edit.nodes if node.op in ("call_module", "get_attr") and node is not attn))
    kept = tuple(path for path in kept if path not in (*TURNS, "training"))
    taken = {path for part in parts for path in (part.path, part.norm, *(path for path, _ in part.behind))} | {proj, *behind.before}
    taken |= {str(seed.target) for seed in seeds}
    if any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for path in kept for one in taken if one):
        raise Unread("its maps make more than queries, keys and values, or are called twice")
    if clash := [path for path in kept if path.split(".")[0] in ("attn", *TURNS)]:
        raise Unread(f"a part of it that goes on is called {clash[0].split('.')[0]}")
    opened = {str(node.target) for node in edit.nodes if node.op == "placeholder"}
    settings = {name: value for name, value in {**call.defaults, **call.values}.items() if name not in opened}
    own = {name: part.region.code for name, part in zip(TURNS, (q, k), strict=True) if part.region}
    return Kept(
        parts=(parts[0], parts[1], parts[2]),
        num_heads=heads,
        head_dim=width,
        factor=factor,
        proj=proj,
        reordered=behind.reordered,
        before_proj=behind.before,
        attn_drop=0.0,
        asks_apart=streams is None and not asks & reads,
        reads_others=others,
        values_apart=tokens[1] is not tokens[2],
        biased=core.bias is not None,
        code=Body(edit, call.names, call.defaults, settings, own, ways.left),
        kept=kept,
        turned=(q.region is not None, k.region is not None),
        pooled=pooled,
        softcap=core.softcap,
        one_asks=count == 1 < k.split.places.shape[1],
    )


def _without_map(flow: Flow, core: Core, values: dict[fx.Node, Any], samples: int) -> set[fx.Node]:
    """Tokens that ask as they are, without a map of the host's: learned queries of a head that pools."""
    node: Any = core.q
    while not flow.depends[core.q] and isinstance(node, fx.Node):
        value = values.get(node)
        if isinstance(value, Tensor) and value.ndim == 3 and len(value) == samples:
            return {node}
        node = next((one for one in node.all_input_nodes if isinstance(values.get(one), Tensor)), None)
    return set()


TURNS = ("turn_of_queries", "turn_of_keys")
"""What the host's code between heads and the softmax is called in what stands in its place."""


def _turn(graph: fx.GraphModule, name: str, cut: Cut, like: fx.Node, after: Lies, heads: int) -> fx.Node | None:
    if cut.region is None:
        return None
    graph.add_module(name, nn.Identity())
    edit = graph.graph
    return edit.call_function(turning, (edit.create_node("get_attr", name), like, cut.lies.told(), after.told(), heads, *cut.region.others))


def _streams(cuts: tuple[Cut, Cut, Cut], values: dict[fx.Node, Any], layers: dict[fx.Node, Any]) -> list[fx.Node] | None:
    """What lies side by side, where numbers of several maps are added; None where none are."""
    seeds = [seed for one in cuts for seed in one.moved.seeds]
    if not any(one.moved.others for one in cuts):
        return None
    found: list[Any] = list(dict.fromkeys(seed.args[0] for seed in seeds))
    shapes = [values[node].shape for node in found]
    plain = all(len(shape) == 3 and shape[1] == shapes[0][1] for shape in shapes) and not any(channels_first(layers[seed]) for seed in seeds)
    if (
        not plain
        or any(one.moved.behind or one.moved.norm or one.split.heads != cuts[0].split.heads for one in cuts)
        or len({one.split.width for one in cuts}) > 1
    ):
        raise Unread("several maps make its queries, of other tokens than its values")
    return found


def _streamed(edit: fx.Graph, streams: list[fx.Node]) -> fx.Node:
    return edit.call_function(side_by_side, tuple(streams))


def _rows(split: Split, heads: int, width: int) -> tuple[int, ...]:
    """Of all heads, where one serves all of them several times, and zeros up to the width."""
    rows = split.rows if split.heads == heads else split.rows * heads
    return tuple(row for head in rows for row in (*head, *[NOTHING] * (width - len(head))))


def sources_in(node: fx.Node, call: Call) -> set[str]:
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


def _check_bias(flow: Flow, values: dict[fx.Node, Any], core: Core, q: Split, samples: int, heads: int) -> None:
    assert core.bias is not None, "asked by the caller"
    bias = values[core.bias]
    if flow.depends[core.bias]:
        raise Unread("what is added to its logits is made of its queries")
    logits = (samples, heads)
    fits = isinstance(bias, Tensor) and len(q.batch) == 1 and not q.folded and q.axis == 1 and bias.ndim in (3, 4)
    if not fits or any(got not in (1, want) for got, want in zip(bias.shape[-4:-2], logits[4 - bias.ndim :], strict=True)):
        raise Unread("what is added to its logits is no bias of pairs a head")


def _tokens(edit: fx.Graph, node: fx.Node, value: Tensor, layer: Any, split: Split) -> fx.Node:
    """``(B, N, C)`` of what a map takes."""
    count = split.places.shape[0]
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
