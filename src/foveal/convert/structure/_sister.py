"""Attentions whose output map lies in a sister, behind which their parent goes on, as BERT's family adds what came in and normalises.

The parent's own code goes on: its attention is replaced by ours, which has the output map, and in the map's place nothing is done.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from .._host import Host, Place
from .._parts import carry_hooks
from ._arguments import bound
from ._place import place_of
from ._plan import Plan
from ._probe import Given, given_at_place
from ._seen import is_map, run, stirred
from ._shell import shell

__all__ = ["Sisters", "sister_of"]

TOLERANCE = 1e-5
"""Of the parent's largest number, in float32."""


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


def sister_of(model: nn.Module, name: str, module: nn.Module, read: Any, inputs: Any = None) -> Host | str:
    """How the parent of an attention is replaced, or why it cannot be.

    Args:
        model: with the attention.
        name: of the attention.
        module: the attention.
        read: from a module and what it is given to a plan, or why there is none.
        inputs: see :func:`structures_of`.
    """
    above, _, inner = name.rpartition(".")
    parent = model.get_submodule(above)
    given, _ = given_at_place(model, {name: module, above: parent}, inputs)
    if name not in given or above not in given:
        return "no run reached it"
    try:
        with torch.no_grad():
            outer = _outer(parent, inner, given[above])
            if outer is None:
                return "nothing but a map follows it in its parent"
            plan = read(_together(module, parent.get_submodule(outer)), given[name])
            return plan if isinstance(plan, str) else _believed(parent, given[above], plan, _Where(inner, outer))
    except (InputError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return f"its parent could not be run by itself ({' '.join(str(error).split())[:120]})"


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


def _believed(parent: nn.Module, given: Given, plan: Plan, where: _Where) -> Host | str:
    """The host, if the parent with its attention replaced gives what it gives with its own."""
    from ._read import ours_of

    copy = stirred(parent)
    call = bound(copy, given)
    assert not isinstance(call, str), "bound before"
    pair = _together(copy.get_submodule(where.inner), copy.get_submodule(where.outer))
    other = _exchanged(copy, pair, ours_of(pair, plan), plan, where).eval()
    for seed in (5, 6):
        fresh = call.fresh({name for name, value in call.tensors.items() if value.ndim == 3}, seed)
        want, have = run(copy, fresh.given).out, run(other, fresh.given).out
        worst = float((have - want).abs().max() / want.abs().max().clamp_min(1e-12))
        if have.shape != want.shape or not worst <= TOLERANCE:
            return f"its parent, built from what was found, differs by {worst:.1e} of its largest number"

    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        return place_of(_pair(module, where), plan, model, name, rates=module.get_submodule(where.inner))

    return Host(read, lambda module, ours: _exchanged(module, _pair(module, where), ours, plan, where))


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


def sisters_of(model: nn.Module, inner: Mapping[str, nn.Module], read: Any, inputs: Any) -> dict[int, Host | str]:
    """By the identity of the parents."""
    return {id(model.get_submodule(name.rpartition(".")[0])): sister_of(model, name, module, read, inputs) for name, module in inner.items()}
