"""What each attention keeps of softmax attention's weights. One rule a mechanism; what has no rule of its own starts as it is made.

``qkv`` and ``proj`` mean the same in all attentions of pairs, so the host's own layers are used, with their hooks, adapters and ``requires_grad``.
Where heads are to have another width than the host's, both are made anew from the host's, see :mod:`foveal.convert._width`.

Paper      the warm start of denoising attention: arXiv 2606.27372; rjccv/DnA scales copies of W_Q and W_V by 1e-4.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import (
    AttentionConfig,
    CausalAttention,
    CrossSampleAttention,
    DenoisingAttention,
    DifferentialAttention,
    EfficientAttention,
    ExternalAttention,
    HaloAttention,
    LinearAttention,
    SoftmaxAttention,
    TokenAttention,
)
from ..attention._base import QKVAttention
from ..attention.halo import HaloCore
from ._foreign import Called, is_ours, made_by_user
from ._host import Place
from ._placed import takes_values_apart
from ._width import Widened, of_width

__all__ = ["Transfer", "WarmStart", "build", "check_warm_start", "make", "refusal"]

WarmStart = float | Literal["exact"]
"""How large W_Q⁻ and W_V⁻ start, relative to W_Q and W_V; ``"exact"`` is V⁻ = 0, which leaves the function what it was."""


@dataclass
class Transfer:
    """What became of the weights, by the names they have in our module."""

    kept: list[str] = field(default_factory=list)
    """The host's own parameters, or where several became one, their values."""
    mapped: list[str] = field(default_factory=list)
    """Made from the host's."""
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Of the host; those of keys and values, say."""
    function: str = "changed"
    """``kept`` to the last bits, ``nearly kept``, or ``changed``."""
    notes: list[str] = field(default_factory=list)


def build(config: AttentionConfig, place: Place, warm_start: WarmStart) -> tuple[TokenAttention, Transfer]:
    """Our attention in the host's place, with what it can keep of the host's weights.

    Raises:
        ValueError: heads that the attention cannot have.
    """
    width, widened = getattr(config, "attn_head_dim", None) or place.head_dim, None
    if width != place.head_dim:
        widened = of_width(place, width, config.attention)
        place = widened.place
    module = make(config, place)
    transfer = _fill(module, place, warm_start)
    return module, transfer if widened is None else _made_anew(transfer, widened, width)


def make(config: AttentionConfig, place: Place) -> TokenAttention:
    """The attention without memory: what the host gives need not be made."""
    options: dict[str, Any] = {}
    if place.head_dim * place.num_heads != place.dim and getattr(config, "attn_head_dim", None) is None:
        if not hasattr(config, "attn_head_dim"):
            raise InputError(f"{config.attention} attention needs dim = heads × width, got {place.dim} and {place.num_heads} × {place.head_dim}")
        options["attn_head_dim"] = place.head_dim
    options |= {
        "qkv_bias": _has_bias(place.qkv),
        "proj_bias": _has_bias(place.proj),
        "attn_drop": place.attn_drop,
        "proj_drop": place.proj_drop,
        "dtype": place.weight.dtype,
    }
    if not is_ours(type(config).module):
        return made_by_user(config, place.dim, place.num_heads, options, place.weight.device)
    return type(config).module(place.dim, place.num_heads, device="meta", **(config.options() | options))  # type: ignore[return-value]


def refusal(module: TokenAttention, place: Place) -> str:
    """Why the attention cannot stand here; empty where it can."""
    if place.needs_pairs and not module.of_pairs:
        return f"{place.needs_pairs}; {module.name} attention has no pairs, softmax or denoising attention has"
    if place.values_apart and not takes_values_apart(module):
        return (
            f"its values are made of other tokens than its keys, as where positions are added to queries and keys alone; {module.name} attention cannot have "
            "that, softmax or denoising attention can"
        )
    if isinstance(module, CrossSampleAttention) and place.weight.shape[0] != place.dim:
        return "it changes the width of its tokens, at which cross-sample attention fuses its streams"
    if place.rotary and isinstance(module, DifferentialAttention):
        return "queries and keys are turned by their positions, which differential attention cannot do with heads that it reads in halves"
    return ""


def _made_anew(transfer: Transfer, widened: Widened, width: int) -> Transfer:
    """What was the host's own is made from it, and the function is not kept where something of it was cut off."""
    own = [name for name in transfer.kept if name.startswith(("qkv.", "proj."))]
    transfer.kept = [name for name in transfer.kept if name not in own]
    transfer.mapped = own + transfer.mapped
    if not widened.kept:
        transfer.function = "changed"
        transfer.dropped.append(f"beyond width {width}: {widened.logits_lost:.0%} of the logits' map, {widened.values_lost:.0%} of the values'")
    return transfer


def _fill(module: TokenAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """Give the attention what it can keep of the host's weights."""
    kind, rule = next((kind, rule) for kind, rule in _RULES if isinstance(module, kind))
    transfer = rule(module, place, warm_start)
    if kind not in (type(module), TokenAttention):
        # what a subclass makes of the weights is its own affair
        transfer.function = "changed"
        transfer.notes.append(f"weights as for {kind.__name__}, of which {type(module).__name__} is a subclass")
    dropped = list(place.lost)
    if place.position is not None:
        names = [f"position.{name}" for name, _ in place.position.named_parameters()]
        if module.of_pairs:
            transfer.kept += names
        else:
            dropped += names
    if place.given_bias and not module.of_pairs:
        dropped.append("bias of pairs from the model")
    if place.rotary and not isinstance(module, QKVAttention):
        dropped.append("rotary positions")
    if dropped:
        transfer.dropped += dropped
        transfer.function = "changed"
    return transfer


def _has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


def _adopt(module: QKVAttention, place: Place) -> Transfer:
    """The host's own layers in the place of ours."""
    out = Transfer()
    for part in ("qkv", "proj", "q_norm", "k_norm", "norm"):
        setattr(module, part, getattr(place, part))
        out.kept += [f"{part}.{name}" for name, _ in getattr(place, part).named_parameters()]
    _make_the_rest(module, place)
    return out


def _make_the_rest(module: nn.Module, place: Place) -> None:
    """Memory, and a start, for what the host did not give."""
    for part in reversed(list(module.modules())):
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        missing = [name for name, value in own if value.is_meta]
        for name in missing:
            empty = torch.empty_like(getattr(part, name), device=place.weight.device)
            if isinstance(getattr(part, name), nn.Parameter):
                setattr(part, name, nn.Parameter(empty, requires_grad=getattr(part, name).requires_grad))
            else:
                setattr(part, name, empty)
        if missing:
            part.reset_parameters()  # type: ignore[operator]


def _rest_is_new(module: nn.Module, out: Transfer) -> Transfer:
    known = {*out.kept, *out.mapped}
    out.new += [name for name, _ in module.named_parameters() if name not in known]
    return out


def _plain(module: QKVAttention, place: Place, warm_start: WarmStart) -> Transfer:
    return _rest_is_new(module, _adopt(module, place))


def _softmax(module: QKVAttention, place: Place, warm_start: WarmStart) -> Transfer:
    out = _plain(module, place, warm_start)
    out.function = "kept"
    return out


@torch.no_grad()
def _halo(module: HaloAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """Without positions at first: where a window covers the map the function is kept."""
    out = _plain(module, place, warm_start)
    for table in module.core.parameters():
        table.zero_()
    assert isinstance(module.core, HaloCore), "halo attention owns this core"
    if place.grid is not None and all(_covers(module.core.block_size, module.core.halo_size, side) for side in place.grid):
        out.function = "kept"
    return out


def _covers(block: int, halo: int, side: int) -> bool:
    """Whether the window of every block sees the whole side."""
    return (ceil(side / block) - 1) * block <= halo and block + halo >= side


@torch.no_grad()
def _denoising(module: DenoisingAttention, place: Place, warm_start: WarmStart) -> Transfer:
    out = _adopt(module, place)
    (q, _, v), scale = _rows(place.qkv), 1.0 if warm_start == "exact" else float(warm_start)
    _copy(module.q_neg, q, scale)
    out.mapped += [f"q_neg.{name}" for name, _ in module.q_neg.named_parameters()]
    if module.v_neg is not None:
        _copy(module.v_neg, v, 0.0 if warm_start == "exact" else scale)
        out.mapped += [f"v_neg.{name}" for name, _ in module.v_neg.named_parameters()]
    else:
        # the values are those of the positive branch: only λ can make the second branch small
        module.lambdas.fill_(0.0 if warm_start == "exact" else scale)
    if not isinstance(place.q_norm, nn.Identity):
        # one norm cannot serve two queries once both are trained
        module.q_neg_norm = copy.deepcopy(place.q_norm)
        out.mapped += [f"q_neg_norm.{name}" for name, _ in module.q_neg_norm.named_parameters()]
    for name, value in module.core.named_parameters():
        if name.startswith("pos_embed."):
            value.zero_()
    if module.core.name == "softmax" and (warm_start == "exact" or scale <= 1e-3):
        out.function = "kept" if warm_start == "exact" else "nearly kept"
    return _rest_is_new(module, out)


@torch.no_grad()
def _cross_sample(module: CrossSampleAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """The second half is not read at first."""
    out = _adopt(module, place)
    module.fuse.weight.copy_(torch.eye(module.dim, 2 * module.dim))
    if module.fuse.bias is not None:
        module.fuse.bias.zero_()
    out.function = "kept"
    return _rest_is_new(module, out)


def _differential(module: DifferentialAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """Values and output mean the same. Queries and keys are split in halves, and meet at half the width."""
    out = Transfer()
    module.qkv, module.proj = place.qkv, place.proj  # type: ignore[assignment]
    out.kept = [f"{part}.{name}" for part in ("qkv", "proj") for name, _ in getattr(place, part).named_parameters()]
    out.dropped = [f"{part}.{name}" for part in ("q_norm", "k_norm", "norm") for name, _ in getattr(place, part).named_parameters()]
    _make_the_rest(module, place)
    return _rest_is_new(module, out)


@torch.no_grad()
def _external(module: ExternalAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """Queries keep their map, the output too where it has the same width. Keys and values have no counterpart: the memories are the same for all images."""
    out = Transfer()
    expanded = module.q.out_features != place.dim
    if expanded:
        _make_the_rest(module, place)
        out.dropped = [f"{part}.{name}" for part in ("qkv", "proj") for name, _ in getattr(place, part).named_parameters()]
        return _rest_is_new(module, out)
    module.proj = place.proj  # type: ignore[assignment]
    module.q_norm, module.norm = place.q_norm, place.norm
    _make_the_rest(module, place)
    _copy(module.q, _rows(place.qkv)[0], 1.0)
    out.mapped = [f"q.{name}" for name, _ in module.q.named_parameters()]
    out.kept = [f"{part}.{name}" for part in ("proj", "q_norm", "norm") for name, _ in getattr(place, part).named_parameters()]
    out.dropped = ["qkv rows of keys and values", *(f"k_norm.{name}" for name, _ in place.k_norm.named_parameters())]
    return _rest_is_new(module, out)


@torch.no_grad()
def _by_name(module: TokenAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """An attention without a rule of its own: layers of the same name and shape mean the same, and all else starts as it was made."""
    out, prefix = Transfer(), ""
    inner: nn.Module = module
    if isinstance(module, Called):
        inner, prefix = module.attn, "attn."
    own = dict(inner.named_children())
    for part in ("qkv", "proj", "q_norm", "k_norm", "norm"):
        theirs: Any = getattr(place, part)
        if part not in own or isinstance(own[part], nn.Identity) != isinstance(theirs, nn.Identity):
            continue
        if isinstance(theirs, nn.Identity) or (_shapes(own[part]) == _shapes(theirs)):
            setattr(inner, part, theirs)
            out.kept += [f"{prefix}{part}.{name}" for name, _ in theirs.named_parameters()]
    rows = dict(zip("qkv", _rows(place.qkv), strict=True))
    for part, (weight, bias) in rows.items():
        layer = own.get(part)
        if "qkv" not in own and type(layer) is nn.Linear and layer.weight.shape == weight.shape and (layer.bias is None) == (bias is None):
            _copy(layer, (weight, bias), 1.0)
            out.mapped += [f"{prefix}{part}.{name}" for name, _ in layer.named_parameters()]
    objects = {id(value) for value in module.parameters()}
    taken = {part for part in rows if f"{prefix}{part}.weight" in out.mapped}
    for part in ("qkv", "proj", "q_norm", "k_norm", "norm"):
        gone = [name for name, value in getattr(place, part).named_parameters() if id(value) not in objects]
        if part == "qkv" and gone and taken:
            out.dropped += [] if len(taken) == 3 else [f"qkv rows of {', '.join(sorted(set(rows) - taken))}"]
        else:
            out.dropped += [f"{part}.{name}" for name in gone]
    _make_the_rest(module, place)
    out.notes.append(f"{module.name} attention has no rule of its own: layers of the same name and shape are the host's, the rest is as it was made")
    return _rest_is_new(module, out)


def _shapes(layer: Any) -> list[tuple[int, ...] | None]:
    """Of weight and bias."""
    return [None if getattr(layer, name, None) is None else tuple(getattr(layer, name).shape) for name in ("weight", "bias")]


_RULES: list[tuple[type[nn.Module], Callable[..., Transfer]]] = [
    (SoftmaxAttention, _softmax),
    (DenoisingAttention, _denoising),
    (CrossSampleAttention, _cross_sample),
    (HaloAttention, _halo),
    (DifferentialAttention, _differential),
    (ExternalAttention, _external),
    (EfficientAttention, _plain),
    (LinearAttention, _plain),
    (CausalAttention, _plain),
    # an attention that somebody registered
    (TokenAttention, _by_name),
]


def check_warm_start(warm_start: Any, config: Any) -> None:
    """Refuse a warm start that is none, or that none of the attentions has.

    Raises:
        ValueError: it is.
    """
    if warm_start is None:
        return
    if isinstance(warm_start, str):
        if warm_start != "exact":
            raise InputError(f"expected warm_start as 'exact' or a number, such as 1e-4, got {warm_start!r}")
    elif isinstance(warm_start, bool) or not isinstance(warm_start, (int, float)) or not math.isfinite(warm_start) or warm_start < 0:
        raise InputError(f"expected warm_start as 'exact' or a finite number of at least 0, such as 1e-4, got {warm_start!r}")
    configs = list(config.values()) if isinstance(config, Mapping) else [config]
    modules = [type(one).module for one in configs if isinstance(one, AttentionConfig)]
    has = (DenoisingAttention, *((SoftmaxAttention, CrossSampleAttention) if warm_start == "exact" else ()))
    if modules and not any(issubclass(module, has) for module in modules):
        names = ", ".join(sorted({one.attention for one in configs if isinstance(one, AttentionConfig)}))
        raise InputError(f"warm_start={warm_start!r} means nothing for {names} attention, which has no negative branch to start small; leave it out")


def _rows(qkv: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of queries, keys and values."""
    weights = qkv.weight.chunk(3)  # type: ignore[operator]
    biases = [None] * 3 if not _has_bias(qkv) else qkv.bias.chunk(3)  # type: ignore[operator]
    return list(zip(weights, biases, strict=True))


def _copy(layer: nn.Linear, rows: tuple[Tensor, Tensor | None], scale: float) -> None:
    layer.weight.copy_(scale * rows[0])
    if rows[1] is not None:
        layer.bias.copy_(scale * rows[1])
