"""Our attentions in a host's place: how each is made there, whether it can stand there, and what it keeps of the host's weights.

What a mechanism keeps it says itself, in its ``adopt_``. Where heads are to have another width than the host's, ``qkv`` and ``proj`` are made anew from the
host's first, see :mod:`foveal.convert._width`; where there are to be more of them, see :mod:`foveal.convert._heads`.

Paper      the warm start of denoising attention: arXiv 2606.27372; rjccv/DnA scales copies of W_Q and W_V by 1e-4.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig, SoftmaxAttention, TokenAttention
from ..attention._base import QKVAttention
from ..attention._transfer import Transfer, WarmStart
from ._foreign import is_ours, made_by_user
from ._heads import with_extra_heads
from ._host import Place
from ._width import Widened, of_width

__all__ = ["Transfer", "WarmStart", "build", "check_warm_start", "make", "refusal"]


def build(config: AttentionConfig, place: Place, warm_start: WarmStart) -> tuple[TokenAttention, Transfer]:
    """Our attention in the host's place, with what it can keep of the host's weights.

    Raises:
        ValueError: heads that the attention cannot have.
    """
    width, widened = getattr(config, "attn_head_dim", None) or place.head_dim, None
    if width != place.head_dim:
        widened = of_width(place, width, config.attention)
        place = widened.place
    module, extra = make(config, place), getattr(config, "extra_heads", 0) if isinstance(config, SoftmaxAttention.Config) else 0
    if extra:
        place = with_extra_heads(place, extra, config.attention)
    transfer = _fill(module, place, warm_start)
    if extra:
        _derive(transfer)
        transfer.notes.append(f"{extra} heads more, which start as the first of the host's with the query turned over and values of zero")
    return module, transfer if widened is None else _made_anew(transfer, widened, width)


def make(config: AttentionConfig, place: Place) -> TokenAttention:
    """The attention without memory: what the host gives need not be made."""
    options: dict[str, Any] = {}
    if place.dim_out not in (None, place.dim) and not issubclass(type(config).module, QKVAttention):
        raise InputError(
            f"it changes the width of its tokens from {place.dim} to {place.dim_out}, which {config.attention} attention cannot, "
            "softmax or denoising attention can"
        )
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
    if place.needs_pairs and not module.has_pairwise_logits:
        return f"{place.needs_pairs}; {module.name} attention has no pairs, softmax or denoising attention has"
    if place.reads_others and not module.takes_values_apart:
        return f"{place.reads_others}; {module.name} attention reads no other tokens than those that ask, softmax or denoising attention can"
    if place.softcap is not None and not module.takes_softcap:
        return f"its logits are kept within {place.softcap:g} by a hyperbolic tangent, which {module.name} attention cannot have here; softmax attention can"
    if place.values_apart and not module.takes_values_apart:
        return (
            f"its values are made of other tokens than its keys, as where positions are added to queries and keys alone; {module.name} attention cannot have "
            "that, softmax or denoising attention can"
        )
    widths = (place.dim, getattr(place.qkv, "context_features", place.dim))
    if widths[0] != widths[1] and not module.takes_other_width:
        return f"its keys and values are made of tokens of width {widths[1]}, and its queries of {widths[0]}, which only softmax attention takes here"
    if place.one_stream and not module.has_one_stream:
        return f"{place.one_stream}, which {module.name} attention has no place for; softmax and denoising attention have"
    return module.unfit_for(place)


def _made_anew(transfer: Transfer, widened: Widened, width: int) -> Transfer:
    """What was the host's own is made from it, and the function is not kept where something of it was cut off."""
    _derive(transfer)
    if not widened.kept:
        transfer.function = "changed"
        transfer.dropped.append(f"beyond width {width}: {widened.logits_lost:.0%} of the logits' map, {widened.values_lost:.0%} of the values'")
    return transfer


def _derive(transfer: Transfer) -> None:
    """The projections are new layers, made from the host's."""
    own = [name for name in transfer.kept if name.startswith(("qkv.", "proj."))]
    transfer.kept = [name for name in transfer.kept if name not in own]
    transfer.mapped = own + transfer.mapped


def _fill(module: TokenAttention, place: Place, warm_start: WarmStart) -> Transfer:
    """Give the attention what it can keep of the host's weights."""
    kind = next(cls for cls in type(module).__mro__ if "adopt_" in vars(cls))
    transfer = module.adopt_(place, warm_start)
    if kind not in (type(module), TokenAttention):
        # what a subclass makes of the weights is its own affair
        transfer.function = "changed"
        transfer.notes.append(f"weights as for {kind.__name__}, of which {type(module).__name__} is a subclass")
    dropped = list(place.lost)
    if place.position is not None:
        names = [f"position.{name}" for name, _ in place.position.named_parameters()]
        if module.has_pairwise_logits:
            transfer.kept += names
        else:
            dropped += names
    if place.given_bias and not module.has_pairwise_logits:
        dropped.append("bias of pairs from the model")
    if place.rotary and not module.takes_rotary:
        dropped.append("rotary positions")
    if dropped:
        transfer.dropped += dropped
        transfer.function = "changed"
    return transfer


def _has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


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
    means = ("any", "exact") if warm_start == "exact" else ("any",)
    if modules and not any(getattr(module, "takes_warm_start", "") in means for module in modules):
        names = ", ".join(sorted({one.attention for one in configs if isinstance(one, AttentionConfig)}))
        raise InputError(f"warm_start={warm_start!r} has no effect for {names} attention, which has no negative branch to start small; leave it out")
