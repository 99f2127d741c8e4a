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
from ._body import Body, as_heads, asked
from ._flow import Flow, Split, channels_first, numbered, split_of
from ._kept_place import Kept, Made
from ._mapped import NOTHING
from ._seen import is_map
from ._symbolic import swept, traced
from ._trace import Core, Unread, core_in, values_of

__all__ = ["kept_in"]


def kept_in(copy: nn.Module, call: Call, maps: set[str]) -> Kept:
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
        raise Unread("its queries are narrower than its values, and normalized")
    factor = (core.factor if core.factor is not None else q.width**-0.5) * moved[0].factor * moved[1].factor
    takes: list[Any] = [one.seed.args[0] for one in moved]
    if core.bias is not None:
        _check_bias(flow, values, core, q, len(q.places))
    behind = behind_of(graph, values, core, q, heads, width, takes[0], layers[moved[0].seed])
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
            formed = shaped(edit, out, end, values, takes[0], layers[moved[0].seed])
        else:
            # the output map first: token by token, it is the same before tokens are moved and after
            like = next(node for node in edit.nodes if node.op == "placeholder" and isinstance(values[node], Tensor) and len(values[node]) == samples)
            cut = edit.call_function(as_heads, (out, like, heads, len(q.batch), q.axis))
            formed = behind.moved
    if behind.moved is not None:
        core.out.replace_all_uses_with(cut)
    end.replace_all_uses_with(formed)
    swept(edit)
    left = [node.name for node in edit.nodes if node is core.softmax or node in {one.seed for one in moved}]
    if left:
        raise Unread("its maps make more than queries, keys and values, or its logits are used elsewhere")
    kept = tuple(dict.fromkeys(str(node.target) for node in edit.nodes if node.op in ("call_module", "get_attr") and node is not attn))
    taken = {path for part in parts for path in (part.path, part.norm, *(path for path, _ in part.behind))} | {proj, *behind.before}
    if any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for path in kept for one in taken if one):
        raise Unread("its maps make more than queries, keys and values, or are called twice")
    if any(path.split(".")[0] == "attn" for path in kept):
        raise Unread("a part of it that goes on is called attn")
    given = {str(node.target) for node in edit.nodes if node.op == "placeholder"}
    settings = {name: value for name, value in {**call.defaults, **call.values}.items() if name not in given}
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
