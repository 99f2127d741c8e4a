"""From a module nobody declared to a host: found, checked, and only then believed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from .._host import Host, Place
from ._arguments import bound
from ._inlet import inlet_of, without
from ._masks import with_mask
from ._packed import one_image
from ._place import place_of
from ._probe import Given, aside, given_at_place, in_several_places
from ._proof import holds, or_why, proven
from ._reading import Reading, cannot_be_read, one_for_all
from ._seen import stirred
from ._shell import shell
from ._shown import shown, tokens_of
from ._text import refuse_text
from ._written import packed, unpacked

__all__ = ["Structures", "read_again", "read_once", "structures_of", "told"]


@dataclass(frozen=True)
class Structures:
    """Hosts by the identity of their modules, and of the others what was missing."""

    hosts: dict[int, Host]
    reasons: dict[int, str]


def structures_of(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any = None) -> Structures:
    """Read all of them by one run of the model.

    Args:
        model: with the modules; nothing of it is changed.
        modules: by name.
        inputs: a batch for the model; made up by its signature and its configuration if None.
    """
    hosts: dict[int, Host] = {}
    reasons: dict[int, str] = {}
    if not modules:
        return Structures(hosts, reasons)
    probe, shared = given_at_place(model, modules, inputs), in_several_places(model)
    for name, module in modules.items():
        reading = read_once(module, probe.given(name, id(module) in shared))
        if isinstance(reading, str):
            reasons[id(module)] = reading
        else:
            hosts[id(module)] = _host(reading)
    return Structures(hosts, reasons)


def read_once(module: nn.Module, calls: list[Given] | str) -> Reading | str:
    """One reading for all the forms in which a module is called, or why there is none."""
    if isinstance(calls, str):
        return calls
    with aside(module):
        return one_for_all([_read(module, given) for given in calls], lambda plan, other: holds(module, plan, other))


def read_again(module: nn.Module, kept: dict[str, Any]) -> Host | str:
    """The host of a module that was read before, as :func:`packed` wrote it, proven again; or why it does not hold here."""
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    reading = unpacked(kept, device)
    with aside(module):
        return holds(module, reading.plan, reading) or _host(reading)


def told(reading: Reading) -> dict[str, Any] | str:
    """To be kept with the conversion; or why it cannot be."""
    try:
        return packed(reading)
    except InputError as error:
        return str(error)


def _host(reading: Reading) -> Host:
    plan = reading.plan

    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        refuse_text(model, name)
        return place_of(module, plan, model, name)

    return Host(read, lambda module, ours: shell(module, ours, plan), told(reading))


def _read(module: nn.Module, given: Given) -> Reading | str:
    """What was found and holds, or why nothing is believed."""
    if reason := cannot_be_read(module):
        return reason
    as_given = bound(module, given)
    if isinstance(as_given, str):
        return as_given

    def found() -> Reading | str:
        copy = stirred(module)
        call, ends = one_image(as_given)
        inlet = inlet_of(copy, call)
        bare = without(copy, inlet)
        tokens = tokens_of(bare, call)
        if isinstance(tokens, str):
            return tokens
        masked, mask = (call, "") if ends else with_mask(bare, call, tokens)
        plan = shown(bare, masked, tokens, mask, ends)
        if isinstance(plan, str) and masked is not call:
            # a mask that nobody gave may be ignored, or honored in a way that is not known: one that comes later is refused then
            plan, masked = shown(bare, call, tokens, "", ends), call
        if isinstance(plan, str):
            return plan
        shifted = any(form == "windows" and isinstance(call.values.get(name), Tensor) for name, form, _ in plan.given)
        plan = proven(copy, replace(plan, inlet=inlet, shifted=shifted), masked, tokens)
        return plan if isinstance(plan, str) else Reading(plan, ((masked, frozenset(tokens)),))

    return or_why(found)
