"""Attentions whose output map lies in a sister, behind which their parent goes on, as BERT's family adds what came in and normalizes.

The parent's own code goes on: its attention is replaced by ours, which has the output map, and in the map's place nothing is done.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._host import Host, Place
from .._parts import carry_hooks
from ._arguments import bound
from ._place import place_of
from ._plan import Plan
from ._probe import Given, aside, given_at_place, in_several_places
from ._proof import TOLERANCE, holds, or_why, ours_of
from ._read import read_once, told
from ._reading import Reading
from ._seen import is_map, run, stirred
from ._shell import shell
from ._text import refuse_text
from ._written import call_again, call_kept, unpacked

__all__ = ["Sisters", "sister_again", "sisters_in"]


class Sisters(nn.Module):
    """An attention and the map that follows it, called as the attention is."""

    def __init__(self, attention: nn.Module, outer: nn.Module) -> None:
        super().__init__()
        self.attention, self.outer = attention, outer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        made = self.attention(*args, **kwargs)
        return (self.outer(made[0]), *made[1:]) if type(made) is tuple else self.outer(made)


def _together(attention: nn.Module, outer: nn.Module) -> Sisters:
    def forward(self: Sisters, *args: Any, **kwargs: Any) -> Any:
        return Sisters.forward(self, *args, **kwargs)

    # arguments are read by the signature of a class
    forward.__signature__ = inspect.signature(type(attention).forward)  # type: ignore[attr-defined]
    return type("Sisters", (Sisters,), {"forward": forward})(attention, outer)


@dataclass(frozen=True)
class _Where:
    inner: str
    outer: str


def sisters_in(model: nn.Module, inner: Mapping[str, nn.Module], inputs: Any = None) -> dict[int, Host | str]:
    """The parents of attentions whose output map lies beside them, by identity: how they are replaced, or why they cannot be.

    Args:
        model: with the attentions.
        inner: the attentions, by name.
        inputs: see :func:`structures_of`.
    """
    above = {name: name.rpartition(".")[0] for name in inner}
    places = dict(inner) | {parent: model.get_submodule(parent) for parent in above.values()}
    if not places:
        return {}
    probe, shared = given_at_place(model, places, inputs), in_several_places(model)
    seen = {name: probe.given(name, id(module) in shared) for name, module in places.items()}
    return {id(places[above[name]]): _sister(places[above[name]], name.rpartition(".")[2], seen[name], seen[above[name]]) for name in inner}


def sister_again(parent: nn.Module, kept: dict[str, Any]) -> Host | str:
    """The host of a parent that was read before, as it was kept, proven again; or why it does not hold here."""
    where = _Where(*map(str, kept["beside"]))
    if absent := [path for path in (where.inner, where.outer) if path not in dict(parent.named_modules())]:
        return f"it has no part {' and no part '.join(absent)}"
    device = next((value.device for value in parent.parameters()), torch.device("cpu"))
    reading, calls = unpacked(kept, device), [call_again(call, device) for call in kept.get("above") or ()]
    if not calls:
        return "no call was kept to prove it on"
    with aside(parent):
        reason = holds(_pair(parent, where), reading.plan, reading)
        return reason or or_why(lambda: _believed(parent, calls, reading, where))


def _sister(parent: nn.Module, inner: str, calls: list[Given] | str, above: list[Given] | str) -> Host | str:
    """How the parent of an attention is replaced, or why it cannot be."""
    if isinstance(calls, str) or isinstance(above, str):
        return calls if isinstance(calls, str) else str(above)

    def found() -> Host | str:
        outer = _outer(parent, inner, above[0])
        if outer is None:
            return "nothing but a map follows it in its parent"
        where = _Where(inner, outer)
        reading = read_once(_pair(parent, where), calls)
        return reading if isinstance(reading, str) else _believed(parent, above, reading, where)

    with aside(parent):
        return or_why(found)


def _outer(parent: nn.Module, inner: str, given: Given) -> str | None:
    """The one map outside of the attention that takes what it gives."""
    copy = stirred(parent)
    call = bound(copy, given)
    if isinstance(call, str):
        return None
    gave: list[Tensor] = []
    handle = copy.get_submodule(inner).register_forward_hook(lambda part, args, made: gave.append(made[0] if isinstance(made, tuple) else made))
    try:
        seen = run(copy, call.given)
    finally:
        handle.remove()
    found = [one.path for one in seen.maps if not one.path.startswith(f"{inner}.") and len(gave) == 1 and one.given is gave[0]]
    return found[0] if len(found) == 1 and is_map(parent.get_submodule(found[0])) else None


def _believed(parent: nn.Module, given: list[Given], reading: Reading, where: _Where) -> Host | str:
    """The host, if the parent with its attention replaced gives what it gives with its own."""
    plan, copy = reading.plan, stirred(parent)
    pair = _pair(copy, where)
    other = _exchanged(copy, pair, ours_of(pair, plan), plan, where).eval()
    for one in given:
        call = bound(copy, one)
        if isinstance(call, str):
            return call
        for seed in (5, 6):
            fresh = call.fresh({name for name, value in call.tensors.items() if value.ndim == 3}, seed)
            want, have = run(copy, fresh.given).out, run(other, fresh.given).out
            worst = float((have - want).abs().max() / want.abs().max().clamp_min(1e-12))
            if have.shape != want.shape or not worst <= TOLERANCE:
                return f"its parent, built from what was found, differs by {worst:.1e} of its largest number"

    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        refuse_text(model, name)
        return place_of(_pair(module, where), plan, model, name, rates=module.get_submodule(where.inner))

    return Host(read, lambda module, ours: _exchanged(module, _pair(module, where), ours, plan, where), _kept(reading, given, where))


def _kept(reading: Reading, given: list[Given], where: _Where) -> dict[str, Any] | str:
    """To be kept with the conversion, or why it cannot be."""
    own, calls = told(reading), [call_kept(one) for one in given]
    if isinstance(own, str):
        return own
    return next((one for one in calls if isinstance(one, str)), None) or own | {"beside": [where.inner, where.outer], "above": calls}


def _pair(parent: nn.Module, where: _Where) -> Sisters:
    return _together(parent.get_submodule(where.inner), parent.get_submodule(where.outer))


def _exchanged(parent: nn.Module, pair: Sisters, ours: nn.Module, plan: Plan, where: _Where) -> nn.Module:
    """The parent again, with ours in the place of its attention and nothing in the place of the map."""
    replacement = shell(pair.attention, ours, plan, owner=pair)
    carry_hooks(pair.attention, replacement)
    other = _with(parent, where.inner.split("."), replacement)
    return _with(other, where.outer.split("."), nn.Identity())


def _with(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """A module of the same class and the same parts, but for one; what lies between is made anew as well."""
    other = type(module).__new__(type(module))
    nn.Module.__init__(other)
    machinery = set(nn.Module().__dict__)
    other.__dict__.update({name: value for name, value in module.__dict__.items() if name not in machinery})
    for kind in ("_parameters", "_buffers", "_modules"):
        other.__dict__[kind].update(module.__dict__[kind])
    other._non_persistent_buffers_set |= module._non_persistent_buffers_set
    other.training = module.training
    first, *rest = path
    other._modules[first] = part if not rest else _with(module._modules[first], rest, part)  # type: ignore[arg-type]
    carry_hooks(module, other)
    return other
