"""Which of the chosen attentions can be converted, and why the others cannot: found out before anything is changed.

By default one that does not fit is left alone, and the report says so; one that was meant by name is refused.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig, TokenAttention
from ._called import methods_called
from ._grids import told_of_grid
from ._hanging import set_otherwise
from ._host import Host, Place, find_host, host_key, refuse_what_cannot_be_read
from ._on_maps import adopted_on_maps, takes_maps
from ._transfer import make, refusal
from ._where import Where, is_everywhere, matcher
from .report import Left

__all__ = ["attention_classes_first", "looks_like_attention", "those_that_fit", "unknown_attentions"]

Found = tuple[list[str], nn.Module, Host, AttentionConfig]
Fitting = tuple[list[str], nn.Module, Host, AttentionConfig, Place]
Configs = AttentionConfig | Mapping[str, AttentionConfig | None]

OTHERS = "is cross-attention or a pooling head: its queries are other tokens than its keys"
UNKNOWN = "conversion does not know its class; teach it with foveal.register_host"


def those_that_fit(
    found: list[Found], model: nn.Module, config: Configs, where: Where, done: Iterable[nn.Module] = (), reasons: Mapping[int, str] | None = None
) -> tuple[list[Fitting], list[Left]]:
    """The modules that can be converted, as they were read, and the attentions that are left alone.

    Args:
        found: modules of known classes, with all their names, and what each is to become.
        model: all of it.
        config: as for :func:`convert_`.
        where: as for :func:`convert_`.
        done: what stands in the model by an earlier conversion.
        reasons: why attentions that nobody declared could not be read by their structure, by the identity of their modules.

    Raises:
        ValueError: one that was meant by name cannot be converted; none can.
    """
    fitting: list[Fitting] = []
    left: list[Left] = []
    refused: list[str] = []
    for names, module, host, wanted in found:
        place, reason = _fit(names[0], module, host, wanted, model)
        if place is not None and (place.only_named or (place.checked and place.asks_apart)) and not _meant(names, module, model, config, where):
            place, reason = None, "is cross-attention or a pooling head, which is converted only where it is named: give `where` or a mapping"
        if place is not None:
            fitting.append((names, module, host, wanted, place))
        elif _meant(names, module, model, config, where):
            refused.append(reason if reason.startswith(names[0]) else f"{names[0]}: {reason}")
        else:
            left.append(Left(names[0], host_key(module), reason.removeprefix(f"{names[0]}: ").removeprefix(f"{names[0]} ")))
    for name, module in unknown_attentions(model, _matcher(config, where, model), [*done, *(module for _, module, _, _ in found)]):
        reason = (reasons or {}).get(id(module), UNKNOWN)
        if _meant([name], module, model, config, where):
            refused.append(f"{name} ({type(module).__name__}) cannot be read by its structure: {reason}")
        else:
            left.append(Left(name, host_key(module), reason))
    if refused:
        raise InputError(_refusal(refused, len(fitting)))
    if found and not fitting:
        known = {names[0] for names, _, _, _ in found}
        raise InputError(f"none of the {len(found)} attentions that are known can be converted: {_grouped([one for one in left if one.name in known])}")
    return fitting, left


def _refusal(refused: list[str], fitting: int, most: int = 6) -> str:
    """Of attentions that were meant by name."""
    more = f" and {len(refused) - most} more" if len(refused) > most else ""
    told = "; ".join(refused[:most]) + more
    if len(refused) > 1 or fitting:
        told += f" ({len(refused)} of the {len(refused) + fitting} attentions that `where` chose, so none was converted)"
    return told if any("leave" in one and "`where`" in one for one in refused) else f"{told}; or leave {'it' if len(refused) == 1 else 'them'} out of `where`"


def _fit(name: str, module: nn.Module, host: Host, wanted: AttentionConfig, model: nn.Module) -> tuple[Place | None, str]:
    """The place of a module that can be converted, or why it cannot be.

    Raises:
        ValueError: quantized weights, which are no matter of one place.
    """
    try:
        place = adopted_on_maps(module, wanted, name).place if takes_maps(wanted) else _read(host, module, model, name)
    except InputError as error:
        return None, str(error)
    if place is None:
        return None, f"{name} {OTHERS}"
    if not place.checked and (reason := set_otherwise(name, module, place.key_dim or place.head_dim)):
        return None, reason
    refuse_what_cannot_be_read(name, iter((part, getattr(place, part)) for part in ("qkv", "proj", "q_norm", "k_norm", "norm")))
    if takes_maps(wanted):
        return place, ""
    try:
        told_of_grid(wanted, place, model, name)
        ours = make(wanted, place)
        reason = refusal(ours, place) or _missed(name, module, ours, model)
    except InputError as error:
        reason = str(error)
    return (None, reason) if reason else (place, "")


def _missed(name: str, module: nn.Module, ours: TokenAttention, model: nn.Module) -> str:
    """What a block of ours calls of its attention beside the attention itself, and would not find; empty where it finds all.

    Blocks of other libraries call such methods where a condition holds, which their replacements say no to.
    """
    if not isinstance(module, TokenAttention):
        return ""
    parent, _, child = name.rpartition(".")
    kind: Any = type(model.get_submodule(parent))
    called = methods_called(kind, child)
    missing = [method for method in sorted(called) if hasattr(module, method) and not hasattr(ours, method)]
    return f"its block calls {', '.join(missing)} of it, which {ours.name} attention does not have" if missing else ""


def _read(host: Host, module: nn.Module, model: nn.Module, name: str) -> Place | None:
    try:
        return host.read(module, model, name)
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"{name} cannot be read as a {host_key(module)}: {error}; where a part of it was exchanged (quantized, pruned, wrapped), convert first and do so "
            "then, or leave it out of `where`"
        ) from error


def _meant(names: list[str], module: nn.Module, model: nn.Module, config: Configs, where: Where) -> bool:
    """Whether a module was asked for by more than a word for all of them."""
    if isinstance(config, Mapping):
        return not is_everywhere(next(glob for glob in config if any(matcher(glob, model)(name, module) for name in names)))
    return not is_everywhere(where)


def _grouped(left: list[Left]) -> str:
    """By reason, each with its first place."""
    places: dict[str, list[str]] = {}
    for one in left:
        places.setdefault(one.reason.replace(one.name, "it"), []).append(one.name)
    told = [f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}" for reason, names in places.items()]
    return "; ".join(told[:4]) + (" …" if len(told) > 4 else "")


# -- attentions of classes that nobody knows --------------------------------------------------------------------------------------------------------

_NAMED = re.compile(r"attn|attention|(?<![a-z])sa$|mhsa|gpsa|sh[sm]a|mla$|^lambda", re.IGNORECASE)
_MAPS = ("qkv", "to_qkv", "q_proj", "to_q", "query", "qk", "in_proj_weight")
"""What modules call their map to queries."""


def looks_like_attention(module: nn.Module) -> bool:
    """By the name of its class, or by a map to queries of its own; what has no weights only drops, normalizes, or is the inner part of one that has."""
    if next(module.parameters(), None) is None:
        return False
    return _NAMED.search(type(module).__name__) is not None or any(isinstance(getattr(module, name, None), nn.Module) for name in _MAPS)


def attention_classes_first(modules: Iterable[nn.Module], most: int = 8) -> str:
    """The classes of some modules in words: attentions first, and others only where there are none."""
    kinds = {host_key(module): looks_like_attention(module) for module in modules}
    attentions = sorted(key for key, is_one in kinds.items() if is_one)
    shown = attentions or sorted(kinds)
    return ", ".join(shown[:most]) + (" …" if len(shown) > most else "")


def unknown_attentions(model: nn.Module, chosen: Callable[[str, nn.Module], bool], done: Iterable[nn.Module] = ()) -> list[tuple[str, nn.Module]]:
    """The innermost modules that look like attentions, are chosen, and belong to no known one."""
    ours = {id(part) for module in done for part in module.modules()}
    known = {id(part) for module in model.modules() if find_host(module) is not None or isinstance(module, TokenAttention) for part in module.modules()}
    # a parametrized module holds its weights in a child
    named = [(name, module) for name, module in model.named_modules() if name and "parametrizations" not in name.split(".")]
    found = [
        (name, module) for name, module in named if id(module) not in known and id(module) not in ours and looks_like_attention(module) and chosen(name, module)
    ]
    outer = {
        id(module)
        for _, module in found
        for part in module.modules()
        if part is not module and (id(part) in known or id(part) in ours or any(part is other for _, other in found))
    }
    return [(name, module) for name, module in found if id(module) not in outer]


def _matcher(config: Configs, where: Where, model: nn.Module) -> Any:
    if not isinstance(config, Mapping):
        return matcher(where, model)
    rules = [(matcher(glob, model), value) for glob, value in config.items()]
    return lambda name, module: next((value is not None for chosen, value in rules if chosen(name, module)), False)
