"""Attentions that do more than attend: keys reduced, windows cut, maps with norms behind them, queries of their own. What they do beside goes on.

The host's forward is traced; what its maps take, where what they give goes, and what happens behind are read off the graph, followed number by number, and in
the graph the attention is exchanged for ours. Then numbers have to agree on other tokens, as for all that is read by structure.

Shapes     B samples or windows, H heads, N tokens, D head width, I = H·D
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...attention import SoftmaxAttention
from .._host import Host, Place
from .._sources import settled
from .._transfer import build
from ._arguments import Call, bound, foreign_in
from ._body import Body, body
from ._cored import Cored, cored_in, cored_place
from ._exchange import kept_in
from ._kept_place import Kept, kept_place
from ._larger import even, larger
from ._probe import Given, aside, given_at_place, in_several_places
from ._reading import cannot_be_read
from ._seen import run, stirred
from ._text import refuse_text
from ._trace import Unread
from ._written import call_again, call_kept, values_kept

__all__ = ["kept_again", "kept_of"]

TOLERANCE = 1e-5
"""Of the output's largest number, in float32."""
_OWN = ("code", "attn_drop", "one_asks")
"""What is no part of a structure, or is made anew: code is never read from a file, and what only the report says is in no file of before."""


def kept_of(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any = None) -> tuple[dict[int, Host], dict[int, str]]:
    """Hosts by the identity of their modules, and of the others what was missing.

    Args:
        model: with the modules; nothing of it is changed.
        modules: by name.
        inputs: a batch for the model; made up if None.
    """
    hosts: dict[int, Host] = {}
    reasons: dict[int, str] = {}
    if not modules:
        return hosts, reasons
    probe, shared = given_at_place(model, modules, inputs), in_several_places(model)
    for name, module in modules.items():
        calls = probe.given(name, id(module) in shared)
        if isinstance(calls, str):
            # said before, of the first reading
            continue
        with aside(module):
            found = _found(module, calls)
        if isinstance(found, str):
            reasons[id(module)] = found
        else:
            hosts[id(module)] = _host(found, _told(found, calls))
    return hosts, reasons


def kept_again(module: nn.Module, kept: dict[str, Any]) -> Host | str:
    """The host of a module that was traced before: traced again, since code is not kept, on calls of the shapes that there were; or why it is another."""
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    calls = [call_again(call, device) for call in kept.get("calls") or ()]
    if not calls:
        return "no call was kept to prove it on"
    with aside(module):
        found = _found(module, calls)
    if isinstance(found, str):
        return found
    return _host(found, kept) if values_kept(found, _OWN) == kept["facts"] else "its maps, heads, scale or dropout are others"


def _told(found: Kept | Cored, calls: list[Given]) -> dict[str, Any] | str:
    """To be kept with the conversion, or why it cannot be."""
    told = [call_kept(call) for call in calls]
    return next((one for one in told if isinstance(one, str)), None) or {"facts": values_kept(found, _OWN), "calls": told}


def _host(found: Kept | Cored, reading: dict[str, Any] | str) -> Host:
    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        refuse_text(model, name)
        return _place(module, found)

    return Host(read, lambda module, ours: body(module, ours, found.code, found.kept), reading)


def _found(module: nn.Module, given: list[Given]) -> Kept | Cored | str:
    """Read from one form in which it is called, and proven on all."""
    if reason := cannot_be_read(module):
        return reason
    calls = [bound(module, one) for one in given]
    if failed := [one for one in calls if isinstance(one, str)]:
        return failed[0]
    bare = [one for one in calls if isinstance(one, Call)]
    why = ""
    for call in bare:
        found = _of_form(module, call, bare)
        if not isinstance(found, str):
            return found
        why = why or found
    return why if len(bare) == 1 else f"it is called in {len(bare)} forms in one run, and none of them tells how it is called in all: {why}"


def _of_form(module: nn.Module, call: Call, calls: list[Call]) -> Kept | Cored | str:
    try:
        copy = stirred(module)
        seen = run(copy, call.given)
        other = _larger(copy, call)
        maps, proofs = {one.path for one in seen.maps}, calls if other is None else [*calls, other]
    except (RuntimeError, ValueError) as error:
        return f"it could not be run by itself ({' '.join(str(error).split())[:120]})"
    why = ""
    for read in (kept_in, cored_in):
        found = _read_by(read, copy, other or call, maps, proofs)
        if not isinstance(found, str):
            return found
        why = found
    return why


def _read_by(read: Any, copy: nn.Module, call: Call, maps: set[str], proofs: list[Call]) -> Kept | Cored | str:
    try:
        return _checked(copy, read(copy, call, maps), proofs)
    except (InputError, Unread) as error:
        return f"{error}{foreign_in(call)}"
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return f"it could not be traced ({type(error).__name__}: {' '.join(str(error).split())[:120]}){foreign_in(call)}"


def _larger(copy: nn.Module, call: Call) -> Call | None:
    """The call with an image that the host takes as well, and that cannot be mistaken for one window; None where it takes no other."""
    for other in larger(call):
        try:
            run(deepcopy(copy), other.given)
        except RuntimeError:
            continue
        return other
    return None


def _checked(copy: nn.Module, found: Kept | Cored, calls: list[Call]) -> Kept | Cored | str:
    """The same, if ours in its place gives what the copy gives, on tokens that nothing was found from, of all sizes."""
    copy.eval()
    place, _ = settled(replace(_place(copy, found), attn_drop=0.0, proj_drop=0.0), {}, None)
    ours, _ = build(SoftmaxAttention.Config(), place, "exact")
    other = body(copy, ours, found.code, found.kept)
    other.eval()
    found.code.proving = True
    for call, seed in product(calls, (3, 4)):
        again = call.fresh(set(call.tensors), seed)
        turned = again.otherwise(seed)
        for one in (again, turned):
            if one is not None and (why := _differs(copy, other, one, one is turned)):
                return why
    if why := _other_ways(copy, other, found.code, calls):
        return why
    found.code.proving = False
    return found


def _other_ways(copy: nn.Module, other: nn.Module, code: Body, calls: list[Call]) -> str:
    """Where sizes lead the host another way than where it was read, ours is shown to give the same at all small sizes that do, or they stay refused; or why
    nothing holds. Sizes of the module's own, as of its positions, are found so, whatever it was read at.
    """
    own = proven = set(code.met)
    refuted: set[tuple[int, ...]] = set()
    for one in (one for call in calls for one in even(call, 16 if code.leads else 32)):
        if not code.leads and proven >= set(code.amounts):
            break
        code.forget()
        try:
            why = _differs(copy, other, one, True)
        except (RuntimeError, ValueError, TypeError, IndexError):
            # nor does ours take these sizes, and says so
            continue
        ways = {way for way in code.met if way[0] < 0}
        if why and (not ways or ways & own):
            return why
        proven, refuted = (proven, refuted | ways) if why else (proven | set(code.met), refuted)
    code.met = tuple(sorted(proven - refuted))
    return ""


def _differs(copy: nn.Module, other: nn.Module, call: Call, turned: bool) -> str:
    """Why one gives something else than the other; empty where it does not."""
    try:
        wanted = _flat(copy(**call.values))
    except (RuntimeError, ValueError, IndexError):
        if turned:
            # its mask says of what sizes its tokens are
            return ""
        raise
    made = _flat(other(**call.values))
    if len(wanted) != len(made) or any(have.shape != want.shape for have, want in zip(made, wanted, strict=True)):
        return "built from what was found, it gives other shapes"
    if any(not torch.equal(have.isnan(), want.isnan()) for have, want in zip(made, wanted, strict=True)):
        return "built from what was found, it gives no numbers where it should"
    worst = max(float((have - want).abs().nan_to_num().max() / want.abs().nan_to_num().max().clamp_min(1e-12)) for have, want in zip(made, wanted, strict=True))
    return "" if worst <= TOLERANCE else f"built from what was found, it differs by {worst:.1e} of its largest number"


def _place(module: nn.Module, found: Kept | Cored) -> Place:
    return kept_place(module, found) if isinstance(found, Kept) else cored_place(module, found)


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [one for part in value for one in _flat(part)] if isinstance(value, (tuple, list)) else []
