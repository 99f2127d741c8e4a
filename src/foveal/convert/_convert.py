"""Put attentions into a model that somebody else made, in place and all at once, or not at all."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig, SoftmaxAttention, TokenAttention
from ..attention._feature_map import FeatureMapAttention
from ._digest import digests, refuse_empty
from ._find import chooser, find
from ._fitting import those_that_fit
from ._grids import told_of_grid, watch_grids
from ._host import Host, Place, find_host, host_key
from ._layouts import tokens_of
from ._on_maps import adopted_on_maps, refuse_without_maps, takes_maps
from ._parts import carry_hooks
from ._record import Converted, begin_record, layout_of, places_of, put
from ._savers import guard_savers
from ._sources import linked, parameters_outside, refuse_mixtures, refuse_outer, settled
from ._transfer import Transfer, WarmStart, build, check_warm_start
from ._where import Where
from ._wrapped import refuse_quantized, refuse_wrapped
from .report import OUTPUT, ConversionReport, Swap
from .structure import Mapped, NoMap, Summed

__all__ = ["convert", "convert_", "convert_as"]


def convert_(
    model: nn.Module,
    config: AttentionConfig | Mapping[str, AttentionConfig | None],
    where: Where = "*",
    *,
    warm_start: WarmStart | None = None,
    inputs: Any = None,
) -> ConversionReport:
    """Replace attention modules in place, keeping the weights that mean the same.

    The replacement keeps device, dtype, training mode, and the host's own layers as far as they are used: their parameters, hooks, adapters and
    ``requires_grad``. Hooks of the module itself go on too. Where queries, keys and values are three layers they become one, a copy, if they are plain, shared
    with nobody and frozen or trained alike; else they stay three. What hangs on a layer and cannot go on is refused. A module that stands in several places
    is replaced once. An error leaves the model as it was.

    An optimizer cannot be seen from the model: make it after the conversion, or give it ``report.new_objects``, names of the parameters that it would not know.

    Args:
        model: of timm, torchvision, transformers, any with ``nn.MultiheadAttention`` (see :func:`known_hosts`), or any whose attention can be read by its
            structure.
        config: what to put in, such as ``foveal.DenoisingAttention.Config()``. A mapping from globs to configurations puts different ones in different
            places; the first glob that matches decides, and None leaves a place as it is.
        where: which modules, see :data:`Where`; :func:`last_stage`, :func:`global_only` and :func:`every_nth` make some. All known attentions by default.
        warm_start: of denoising attention, the size of the negative branch relative to the host's weights, 1e-4 if None; or ``"exact"``: the function is
            unchanged. ``"exact"`` may also be said of softmax and cross-sample attention, which keep it anyway.
        inputs: a batch for the model, a tensor, a tuple or a mapping. Attentions of classes that nobody declared are read by their structure, from what they
            are given in one run; None makes up images and words by the model's signature and configuration.

    Returns:
        What was replaced, and what became of the weights.

    Raises:
        ValueError: nothing matches, or nothing that is known; a host's setting that the attention cannot have; something that hangs on a layer and would be
            lost; a quantized, compiled, sharded or otherwise wrapped model; a warm start that is none, or has no effect; a module that was converted to another
            attention before.

    Example:
        >>> model = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)
        >>> report = convert_(model, SoftmaxAttention.Config())
        >>> print(report.swaps[0].name, report.swaps[0].output)
        self_attn identical
    """
    check_warm_start(warm_start, config)
    return convert_as(model, config, where, warm_start=1e-4 if warm_start is None else warm_start, apart=None, inputs=inputs)


def convert_as(
    model: nn.Module,
    config: AttentionConfig | Mapping[str, AttentionConfig | None],
    where: Where,
    *,
    warm_start: WarmStart,
    apart: Collection[str] | None,
    inputs: Any = None,
    unchanged: bool = False,
    read: Mapping[str, dict[str, Any]] | None = None,
) -> ConversionReport:
    """:func:`convert_`, or what it did once done again.

    Args:
        model: see :func:`convert_`, as of all others.
        config: and so on.
        where: and so on.
        warm_start: and so on, of any attention.
        apart: names of the places whose queries, keys and values stay three layers; None to find out.
        inputs: see :func:`convert_`.
        unchanged: refuse what does not keep the function.
        read: what was read of attentions of classes that nobody declared, by the names of their places; they are proven again, and not read anew.
    """
    refuse_wrapped(model)
    refuse_quantized(model)
    for one in config.values() if isinstance(config, Mapping) else [config]:
        if isinstance(one, AttentionConfig):
            refuse_without_maps(model, one)
    found, reasons = find(model, chooser(model, config, where), inputs, read or {})
    refuse_empty(model.state_dict())
    planned: list[tuple[Converted, Swap]] = []
    on_grids: list[tuple[str, nn.Module]] = []
    # new parts are made where the host's are, whatever the caller's default device
    with torch.device("cpu"), torch.inference_mode(False):
        for names, module, _, wanted in found:
            refuse_outer(model, names[0])
            if type(module) is type(wanted).module and not _goes_on(module, wanted):
                raise InputError(f"{names[0]} is {wanted.attention} attention already, as the model was built; leave it out of `where`")
        fitting, left = those_that_fit(found, model, config, where, [module for _, module in places_of(model)], reasons)
        for names, module, host, wanted, place in fitting:
            refuse_mixtures(names[0], place)
            outside = parameters_outside(model, module)
            if takes_maps(wanted):
                adopted = adopted_on_maps(module, wanted, names[0])
                place, transfer, is_apart, here = adopted.place, adopted.transfer, False, wanted
                ours: Any = adopted.attention
                replacement = ours
            else:
                place, is_apart = settled(place, outside, None if apart is None else names[0] in apart)
                here = told_of_grid(wanted, place, model, names[0])
                ours, transfer = build(here, place, warm_start)
                replacement = host.wrap(module, ours)
            if unchanged and transfer.function != "kept":
                lost = f" ({', '.join(transfer.dropped)} would be lost)" if transfer.dropped else ""
                raise InputError(f"{names[0]} is more than softmax attention, so that its function would change{lost}; leave it out of `where`")
            if place.windows == 1 and place.num_prefix_tokens is not None:
                on_grids.append((names[0], ours))
            replacement.__dict__["place_name"] = names[0]
            _set_mode(module, replacement)
            carry_hooks(module, replacement)
            links, buffers = linked(names[0], module, replacement, place, outside)
            transfer.dropped += [f"buffer {name}" for name in buffers]
            if getattr(ours, "class_token_note", "") and tokens_of(model, names[0]).pooling == "token":
                transfer.notes.append(ours.class_token_note)
            converted = Converted(names, module, replacement, wanted, warm_start, links, is_apart, _reading(module, host, inputs))
            planned.append((converted, _swap(converted, ours, transfer, place, here)))
    before, layout = digests(model.state_dict()), layout_of(model.state_dict())
    # from here on nothing can fail
    for converted, _ in planned:
        put(model, converted.names, converted.replacement)
    watch_grids(model, on_grids)
    record = begin_record(model, before, layout)
    prefixes = tuple(f"{name}." for converted, _ in planned for name in converted.names)
    record.parts += [converted for converted, _ in planned]
    if prefixes:
        state = model.state_dict()
        record.put_in(prefixes, state)
        record.start |= digests({name: value for name, value in state.items() if name.startswith(prefixes)})
    record.new |= {name for converted, swap in planned for name in _full_names(converted, swap)}
    guard_savers(model, [name for converted, _ in planned for name in converted.names])
    return ConversionReport([swap for _, swap in planned], left)


def convert(
    model: nn.Module,
    config: AttentionConfig | Mapping[str, AttentionConfig | None],
    where: Where = "*",
    *,
    warm_start: WarmStart | None = None,
    inputs: Any = None,
) -> tuple[nn.Module, ConversionReport]:
    """:func:`convert_` on a copy; the model is untouched."""
    refuse_wrapped(model)
    try:
        other = copy.deepcopy(model)
    except RuntimeError as error:
        raise InputError(f"the model cannot be copied: {error}; convert it in place with convert_") from error
    return other, convert_(other, config, where, warm_start=warm_start, inputs=inputs)


def _goes_on(module: nn.Module, wanted: AttentionConfig) -> bool:
    """Whether one attention in the place of another of its class is a change that is meant: of plain softmax, which all else can be made of."""
    return isinstance(module, SoftmaxAttention) and (module.lambdas is None or not getattr(wanted, "center", False))


def _reading(module: nn.Module, host: Host, inputs: Any) -> dict[str, Any] | str | None:
    """What is kept of a class that nobody declared. Where there is nothing to be kept it is read anew, which no fresh model can do without the user's batch."""
    if host.reading is None and inputs is not None and find_host(module) is None:
        return "it was read from the inputs that were given, and those are not kept"
    return host.reading


def _set_mode(module: nn.Module, replacement: nn.Module) -> None:
    """Training or evaluation as the host; its own parts are left in the mode that they are in."""
    own = {id(part) for part in module.modules()}
    for part in replacement.modules():
        if id(part) not in own:
            part.training = module.training


def _full_names(converted: Converted, swap: Swap) -> list[str]:
    """New parameters as the model's state dict names them; buffers of the attention are new as well."""
    kinds = (TokenAttention, FeatureMapAttention)
    ours = [f"{inner}.{name}".strip(".") for inner, module in converted.replacement.named_modules() if isinstance(module, kinds) for name in swap.new]
    host = {id(value) for value in converted.original.buffers()}
    buffers = [name for name, value in converted.replacement.named_buffers() if id(value) not in host]
    return [f"{place}.{name}" for place in converted.names for name in (*ours, *buffers)]


def _swap(converted: Converted, ours: Any, transfer: Transfer, place: Place, config: AttentionConfig) -> Swap:
    names, module, replacement = converted.names, converted.original, converted.replacement
    notes = []
    if len(names) > 1:
        notes.append(f"shared, also as {', '.join(names[1:])}")
    if hooks := len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) + len(module._backward_pre_hooks):
        notes.append(f"{hooks} hooks of the module go on, with what the new attention takes and gives")
    if converted.apart and not all(isinstance(layer, (Mapped, NoMap, Summed)) for layer in place.qkv.layers):  # type: ignore[union-attr]
        notes.append("queries, keys and values stay three layers, since they are adapted, hooked, shared, or frozen apart")
    notes += [*place.notes, *transfer.notes]
    tokens, macs = place.num_tokens, None
    if tokens is not None and place.windows is not None and (after := ours.macs(tokens)) is not None:
        before = SoftmaxAttention(place.dim, place.num_heads, attn_head_dim=place.head_dim, device="meta").macs(tokens)
        macs = (place.windows * before, place.windows * after)
    own = {id(value) for value in module.parameters()}
    objects = dict(ours.named_parameters())
    copied = [name for name in transfer.kept if name in objects and id(objects[name]) not in own]
    return Swap(
        name=names[0],
        was=host_key(module),
        to=config.to_dict(),
        output=OUTPUT[transfer.function],
        kept=[name for name in transfer.kept if name not in copied],
        derived=copied + transfer.mapped,
        new=transfer.new,
        dropped=transfer.dropped,
        parameters=(sum(p.numel() for p in module.parameters()), sum(p.numel() for p in replacement.parameters())),
        macs=macs,
        notes=notes,
        new_objects=[f"{names[0]}.{name}" for name, value in replacement.named_parameters() if id(value) not in own],
    )
