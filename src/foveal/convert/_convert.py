"""Put attentions into a model that somebody else made, in place and all at once, or not at all."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig, SoftmaxAttention, TokenAttention
from ._digest import digests, fingerprint
from ._fitting import attention_classes_first, those_that_fit
from ._grids import forget_grids, told_of_grid, watch_grids
from ._host import Host, Place, find_host, host_key, known_hosts, refuse_what_cannot_be_read
from ._parts import Copied, carry_hooks
from ._transfer import Transfer, WarmStart, build, make, refusal
from ._where import Where, is_everywhere, matcher
from .report import ConversionReport, Swap

__all__ = ["begin_record", "convert", "convert_", "is_converted", "originals_of", "places_of", "record_of", "refuse_compiled", "revert_"]

_RECORD = "_foveal_conversion"


@dataclass
class Converted:
    """What is remembered of one replaced module."""

    names: list[str]
    original: nn.Module
    replacement: nn.Module
    wanted: AttentionConfig
    warm_start: WarmStart
    copied: tuple[Copied, ...]


@dataclass
class Record:
    """What is remembered of a model's conversion, on the model; not a submodule, so that it is in no state dict."""

    base: str
    """Fingerprint of the weights before the first conversion."""
    parts: list[Converted]
    start: dict[str, int]
    """Digest of every tensor when it came into being: of the base, or of the conversion."""
    new: set[str]
    """Names of parameters that the base says nothing of."""
    inserted: list[Any] = field(default_factory=list)
    """Blocks that :func:`insert_` put in; they replace nothing."""
    whole: bool = True
    """Whether the originals hold the base's weights; a model that was loaded from a folder has only those that conversion kept."""


def is_converted(model: nn.Module) -> bool:
    """Whether :func:`convert_` was called with this very module."""
    return _RECORD in model.__dict__


def record_of(model: nn.Module) -> Record:
    """What :func:`convert_` left on the model.

    Raises:
        ValueError: nothing.
    """
    record: Record | None = model.__dict__.get(_RECORD)
    if record is None:
        raise InputError("this model was not converted, or not as a whole: give the module that was given to convert_")
    return record


def begin_record(model: nn.Module, before: dict[str, int]) -> Record:
    """The model's record, which begins with the digests of its weights where there is none."""
    record: Record = model.__dict__.setdefault(_RECORD, Record(fingerprint(before), [], before, set()))
    return record


def places_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What stands in the model now by conversion, and the name of each place; none where the model was not converted."""
    return [(part.names[0], part.replacement) for part in _parts(model)]


def originals_of(model: nn.Module) -> dict[str, nn.Module]:
    """What stood in the converted places before, by name."""
    return {name: part.original for part in _parts(model) for name in part.names}


def convert_(
    model: nn.Module,
    config: AttentionConfig | Mapping[str, AttentionConfig | None],
    where: Where = "*",
    *,
    warm_start: WarmStart = 1e-4,
) -> ConversionReport:
    """Replace attention modules in place, keeping the weights that mean the same.

    The replacement keeps device, dtype, training mode, and the host's own layers as far as they are used: their parameters, hooks, adapters and
    ``requires_grad``. Hooks of the module itself go on too. A module that stands in several places is replaced once. An error leaves the model as it was.

    Args:
        model: of timm, torchvision, transformers, or any with ``nn.MultiheadAttention``; see :func:`known_hosts`.
        config: what to put in, such as ``foveal.DenoisingAttention.Config()``. A mapping from globs to configurations puts different ones in different
            places; the first glob that matches decides, and None leaves a place as it is.
        where: which modules, see :data:`Where`; :func:`last_stage`, :func:`global_only` and :func:`every_nth` make some. All known attentions by default.
        warm_start: of denoising attention, the size of the negative branch relative to the host's weights, or ``"exact"``: the function is unchanged.

    Returns:
        What was replaced, and what became of the weights.

    Raises:
        ValueError: nothing matches, or nothing that is known; a host's setting that the attention cannot have; a quantised or compiled model; a module that
            was converted to another attention before.

    Example:
        >>> model = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> report = convert_(model, SoftmaxAttention.Config())
        >>> print(report.swaps[0].name, report.swaps[0].function)
        self_attn kept
    """
    refuse_compiled(model)
    choose = _chooser(model, config, where)
    found, everywhere = _find(model, choose), is_everywhere(where)
    found, left = those_that_fit(found, model, config, where, [part.replacement for part in _parts(model)])
    before = digests(model.state_dict())
    planned: list[tuple[Converted, Swap]] = []
    on_grids: list[tuple[str, nn.Module]] = []
    for names, module, host, wanted in found:
        place = host.read(module, model, names[0])
        if place is None:
            if everywhere:
                continue
            raise InputError(f"{names[0]} is asked by other tokens than it reads, which most attentions cannot do; leave it out of `where`")
        refuse_what_cannot_be_read(names[0], iter((part, getattr(place, part)) for part in ("qkv", "proj", "q_norm", "k_norm", "norm")))
        if reason := refusal(make(wanted, place), place):
            if place.asks_apart and everywhere:
                continue
            raise InputError(f"{names[0]}: {reason}; or leave it out of `where`")
        here = told_of_grid(wanted, place, model, names[0])
        ours, transfer = build(here, place, warm_start)
        if place.windows == 1 and place.num_prefix_tokens is not None:
            on_grids.append((names[0], ours))
        replacement = host.wrap(module, ours).train(module.training)
        replacement.__dict__["place_name"] = names[0]
        carry_hooks(module, replacement)
        planned.append(
            (Converted(names, module, replacement, wanted, warm_start, place.copied), _swap(names, module, replacement, ours, transfer, place, here))
        )
    # from here on nothing can fail
    for converted, _ in planned:
        _put(model, converted.names, converted.replacement)
    watch_grids(model, on_grids)
    record = begin_record(model, before)
    prefixes = tuple(f"{name}." for converted, _ in planned for name in converted.names)
    record.parts += [converted for converted, _ in planned]
    record.start |= digests({name: value for name, value in model.state_dict().items() if name.startswith(prefixes)}) if prefixes else {}
    record.new |= {name for converted, swap in planned for name in _full_names(converted, swap)}
    return ConversionReport([swap for _, swap in planned], left)


def _full_names(converted: Converted, swap: Swap) -> list[str]:
    """New parameters as the model's state dict names them; buffers of the attention are new as well."""
    ours = [f"{inner}.{name}".strip(".") for inner, module in converted.replacement.named_modules() if isinstance(module, TokenAttention) for name in swap.new]
    buffers = [name for name, _ in converted.replacement.named_buffers()]
    return [f"{place}.{name}" for place in converted.names for name in (*ours, *buffers)]


def convert(
    model: nn.Module,
    config: AttentionConfig | Mapping[str, AttentionConfig | None],
    where: Where = "*",
    *,
    warm_start: WarmStart = 1e-4,
) -> tuple[nn.Module, ConversionReport]:
    """:func:`convert_` on a copy; the model is untouched."""
    other = copy.deepcopy(model)
    return other, convert_(other, config, where, warm_start=warm_start)


def revert_(model: nn.Module) -> list[str]:
    """Put back the modules that :func:`convert_` replaced and take out what :func:`insert_` put in, in place; their names.

    Layers that the two shared come back as they are now, trained if they were trained. The attention's own parameters are gone.

    Raises:
        ValueError: the model was not converted; or it came out of ``foveal.from_pretrained``, and weights that conversion dropped are not there.
    """
    record = record_of(model)
    if not record.whole:
        raise InputError("this model was loaded converted, without the weights that conversion dropped, so there is no way back; take the base model itself")
    parts = record.parts
    for converted in parts:
        like = next(converted.replacement.parameters())
        original = converted.original.to(like.device, like.dtype).train(converted.replacement.training)
        for copied in converted.copied:
            copied.give_back()
        _put(model, converted.names, original)
    forget_grids(model)
    taken = [inserted.take_out(model) for inserted in record.inserted]
    del model.__dict__[_RECORD]
    return [*(name for converted in parts for name in converted.names), *taken]


# -- which -----------------------------------------------------------------------------------------------------------------------------------------


_Choice = tuple[bool, AttentionConfig | None]
"""Whether anything is said of a module, and what; None is to leave it."""


def _chooser(model: nn.Module, config: AttentionConfig | Mapping[str, AttentionConfig | None], where: Where) -> Callable[[str, nn.Module], _Choice]:
    if isinstance(config, AttentionConfig):
        chosen = matcher(where, model)
        return lambda name, module: (chosen(name, module), config)
    if not isinstance(config, Mapping) or not all(value is None or isinstance(value, AttentionConfig) for value in config.values()):
        raise InputError(f"expected a configuration, such as foveal.DenoisingAttention.Config(), or a mapping from globs to configurations, got {config!r}")
    if not is_everywhere(where):
        raise InputError("where says nothing beside a mapping, whose globs say it; give one of the two")
    rules = [(matcher(glob, model), value) for glob, value in config.items()]
    return lambda name, module: next(((True, value) for chosen, value in rules if chosen(name, module)), (False, None))


def _find(model: nn.Module, choose: Callable[[str, nn.Module], _Choice]) -> list[tuple[list[str], nn.Module, Host, AttentionConfig]]:
    """Every module to be replaced, once, with all its names."""
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
        modules[id(module)] = module
    done = {id(part): converted for converted in _parts(model) for part in converted.replacement.modules()}
    found, matched, already = [], [], 0
    for key, module in modules.items():
        said = [wanted for name in names[key] for chosen, wanted in (choose(name, module),) if chosen]
        if not said:
            continue
        matched.append(module)
        wanted, host = said[0], find_host(module)
        if key in done:
            already += _check_again(done[key], wanted)
            continue
        if host is None or wanted is None:
            continue
        if "" in names[key]:
            raise InputError(f"the model itself is the attention ({type(module).__name__}); put it into a module, so that there is a place to replace it in")
        found.append((names[key], module, host, wanted))
    if not matched:
        raise InputError(f"no module is chosen; the model's attentions are {', '.join(_attentions(model)) or 'none that is known'}")
    if not found and not already:
        raise InputError(
            f"{len(matched)} modules are chosen, and none is an attention that is known: {attention_classes_first(matched)}; "
            f"known: {', '.join(known_hosts())}; teach another with foveal.register_host"
        )
    return found


def _parts(model: nn.Module) -> list[Converted]:
    return record_of(model).parts if is_converted(model) else []


def _check_again(converted: Converted, wanted: AttentionConfig | None) -> int:
    """The same again is nothing to do; another needs the first to be taken back."""
    if wanted is not None and wanted != converted.wanted:
        raise InputError(f"{converted.names[0]} was converted to {converted.wanted.to_json()} before; call foveal.revert_(model) first")
    return 1


def _attentions(model: nn.Module) -> list[str]:
    names = [name for name, module in model.named_modules() if find_host(module) is not None]
    return names if len(names) <= 4 else [*names[:2], "…", names[-1]]


def refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise InputError(f"{name or 'the model'} is compiled, and would go on with what it was compiled from; convert first and compile then")


# -- what ------------------------------------------------------------------------------------------------------------------------------------------


def _swap(names: list[str], module: nn.Module, replacement: nn.Module, ours: Any, transfer: Transfer, place: Place, config: AttentionConfig) -> Swap:
    notes = []
    if len(names) > 1:
        notes.append(f"shared, also as {', '.join(names[1:])}")
    if hooks := len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks):
        notes.append(f"{hooks} hooks of the module go on, with what the new attention takes and gives")
    notes += place.notes
    tokens, macs = place.num_tokens, None
    if tokens is not None and place.windows is not None:
        before = SoftmaxAttention(place.dim, place.num_heads, attn_head_dim=place.head_dim, device="meta").macs(tokens)
        macs = (place.windows * before, place.windows * ours.macs(tokens))
    return Swap(
        name=names[0],
        was=host_key(module),
        to=config.to_dict(),
        function=transfer.function,
        kept=transfer.kept,
        mapped=transfer.mapped,
        new=transfer.new,
        dropped=transfer.dropped,
        parameters=(sum(p.numel() for p in module.parameters()), sum(p.numel() for p in replacement.parameters())),
        macs=macs,
        notes=notes,
    )


def _put(model: nn.Module, names: list[str], module: nn.Module) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
