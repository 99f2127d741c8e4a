"""From a module nobody declared to a host: found, checked, and only then believed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..._errors import InputError
from ...attention import SoftmaxAttention, TokenAttention
from .._host import Host, Place
from .._sources import settled
from .._transfer import build
from ._arguments import Call, bound, sources_of
from ._inlet import inlet_of, without
from ._maps import Met, met_in, queries_or_keys, tokens_in
from ._place import place_of
from ._plan import Plan
from ._probe import Given, aside, given_at_place, in_several_places
from ._reading import Reading, one_for_all
from ._seen import Run, run, stirred
from ._shell import answer, shell
from ._text import refuse_text
from ._written import packed, unpacked

__all__ = ["NO_OUTPUT_MAP", "Structures", "read_again", "structures_of"]

TOLERANCE = 1e-5
"""Of the output's largest number, in float32."""
NO_OUTPUT_MAP = "no output map of its own follows the softmax"


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
    probe = given_at_place(model, modules, inputs)
    shared = in_several_places(model)
    for name, module in modules.items():
        calls = probe.given(name, id(module) in shared)
        if isinstance(calls, str):
            reasons[id(module)] = calls
        else:
            with aside(module):
                reading = one_for_all([_read(module, given) for given in calls], lambda plan, other, module=module: _holds(module, plan, other))  # type: ignore[misc]
            if isinstance(reading, str):
                reasons[id(module)] = reading
            else:
                hosts[id(module)] = _host(reading)
    return Structures(hosts, reasons)


def read_again(module: nn.Module, kept: dict[str, Any]) -> Host | str:
    """The host of a module that was read before, as :func:`packed` wrote it, proven again; or why it does not hold here."""
    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    reading = unpacked(kept, device)
    with aside(module):
        return _holds(module, reading.plan, reading) or _host(reading)


def _host(reading: Reading) -> Host:
    plan = reading.plan

    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        refuse_text(model, name)
        return place_of(module, plan, model, name)

    return Host(read, lambda module, ours: shell(module, ours, plan), _told(reading))


def _told(reading: Reading) -> dict[str, Any] | str:
    """To be kept with the conversion; or why it cannot be."""
    try:
        return packed(reading)
    except InputError as error:
        return str(error)


def _read(module: nn.Module, given: Given) -> Reading | str:
    """What was found and holds, or why nothing is believed."""
    if not any(value.is_floating_point() for value in module.parameters()):
        return "it has no weights"
    if any(is_parametrized(part) for part in module.modules()):
        return "it carries a parametrisation, which is no part of a structure"
    call = bound(module, given)
    if isinstance(call, str):
        return call

    def found() -> Reading | str:
        copy = stirred(module)
        inlet = inlet_of(copy, call)
        bare = without(copy, inlet)
        tokens = _tokens(bare, call)
        if isinstance(tokens, str):
            return tokens
        with_mask, mask = _with_mask(bare, call, tokens)
        plan = _found(bare, with_mask, tokens, mask)
        if isinstance(plan, str):
            return plan
        plan = _checked(copy, replace(plan, inlet=inlet), with_mask, tokens)
        return plan if isinstance(plan, str) else Reading(plan, ((with_mask, frozenset(tokens)),))

    return _or_why(found)


def _holds(module: nn.Module, plan: Plan, reading: Reading) -> str:
    """Why a plan is not what a module computes in the calls of a reading; empty where it is."""

    def found() -> str:
        copy = stirred(module)
        checked = (_checked(copy, plan, call, set(tokens)) for call, tokens in reading.calls)
        return next((reason for reason in checked if isinstance(reason, str)), "")

    return _or_why(found)


def _or_why(found: Callable[[], Any]) -> Any:
    try:
        return found()
    except InputError as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return f"it could not be run by itself ({'' if isinstance(error, RuntimeError) else f'{type(error).__name__}: '}{' '.join(str(error).split())[:120]})"


def _tokens(copy: nn.Module, call: Call) -> set[str] | str:
    """The arguments that its maps take."""
    seen = run(copy, call.given)
    if len(seen.logits) != 1:
        return f"it computes {len(seen.logits)} softmax attentions in a call, and one is read"
    names: set[str] = set()
    for one in seen.maps:
        if one.turn < seen.turns[0]:
            found = sources_of(one.given, call)
            if found is None:
                return f"{one.path} takes something else than the tokens (or tokens and positions) of its call, as where keys are reduced or windows cut inside"
            names |= set(found[0])
    return names or "no linear map takes its tokens"


_MASKS = ("attention_mask", "attn_mask", "mask")


def _with_mask(copy: nn.Module, call: Call, tokens: set[str]) -> tuple[Call, str]:
    """The call with a mask of numbers where a mask may be given, so that what becomes of it is seen; and the mask's name."""
    name = next((one for one in _MASKS if one in call.names or one in call.values), "")
    if not name:
        return call, ""
    logits = run(copy, call.given).logits[0]
    if logits.ndim != 4:
        return call, name
    source = torch.Generator().manual_seed(7)
    mask = torch.randn((logits.shape[0], 1, *logits.shape[-2:]), generator=source).to(logits.device)
    there = call.values.get(name)
    if isinstance(there, Tensor) and there.dtype == torch.bool:
        mask = mask > -1
        mask[..., 0] = True
    elif isinstance(there, Tensor) and there.shape != mask.shape and there.ndim != 4:
        return call, name
    other = Call(call.names, call.defaults, call.values | {name: mask})
    try:
        run(copy, other.given)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return call, name
    return other, name


def _found(copy: nn.Module, call: Call, tokens: set[str], mask: str) -> Plan | str:
    calls = call.fresh(tokens, 1), call.fresh(tokens, 2)
    runs = run(copy, calls[0].given), run(copy, calls[1].given)
    behind = [one for one in runs[0].maps if one.turn > runs[0].turns[0]]
    if len(behind) != 1:
        return NO_OUTPUT_MAP if not behind else f"{len(behind)} maps follow the softmax, and one is read"
    met = met_in(copy, calls, runs)
    if isinstance(met, str):
        return met
    heads = _heads(copy, met, runs[0])
    added = _added(copy, met, heads, calls[0], runs[0])
    used = ""
    if added is not None:
        value = call.values.get(mask)
        if not isinstance(value, Tensor) or not _same_mask(added, value):
            return "a bias or a mask is added to its logits that none of its arguments says"
        used = mask
    elif isinstance(call.values.get(mask), Tensor):
        return f"it is given {mask} and its logits do not show it"
    returns = _returns(runs[0])
    if isinstance(returns, str):
        return returns
    known = {name for part in met.parts for name in part.sources} | {used, met.rotary}
    harmless = tuple(name for name, value in call.values.items() if isinstance(value, Tensor) and name not in known)
    inner = len(met.parts[0].rows)
    if any(isinstance(value, Tensor) and "mask" in name for name, value in call.values.items() if name in harmless):
        return "it is given a mask that does nothing when it is read, and may do something in another call"
    return Plan(
        names=call.names,
        defaults=call.defaults,
        parts=met.parts,
        proj=behind[0].path,
        num_heads=heads,
        head_dim=inner // heads,
        scale=met.scale,
        layout=met.layout,
        norms=met.norms,
        mask=used,
        rotary=met.rotary,
        rotation=met.rotation,
        returns=returns,
        harmless=harmless,
        drops=_drops(runs[0], behind[0].turn),
    )


def _drops(seen: Run, proj: int) -> tuple[str, str] | None:
    """Dropouts behind the softmax and behind the output map: none of it shows in evaluation. Another would be lost."""
    if not seen.drops:
        return None
    places = ["", ""]
    for path, turn, shape in seen.drops:
        of_map = seen.turns[0] < turn <= proj and shape == seen.logits[0].shape
        if not of_map and turn <= proj:
            raise InputError(f"its dropout {path} stands where no attention here has one")
        places[0 if of_map else 1] = path
    return places[0], places[1]


def _heads(copy: nn.Module, met: Met, seen: Run) -> int:
    made = next(one.made for one in seen.maps if one.path == met.parts[0].path)
    samples, logits = tokens_in(made, met.layout).shape[0], seen.logits[0]
    return logits.shape[1] if logits.ndim == 4 else logits.shape[0] // samples


def _added(copy: nn.Module, met: Met, heads: int, call: Call, seen: Run) -> Tensor | None:
    """What is added to the products, ``(B, H, Nq, Nk)``; None where nothing is."""
    turn = call.values[met.rotary] if met.rotary else None
    q, k = (queries_or_keys(copy, part, met.layout, norm, turn, met.rotation, heads, seen) for part, norm in zip(met.parts[:2], met.norms, strict=True))
    products = (q @ k.mT) * met.scale
    added = seen.logits[0].reshape(products.shape) - products
    return added if not added.isfinite().all() or float(added.abs().max()) > 1e-4 * float(products.abs().max()) else None


def _same_mask(added: Tensor, mask: Tensor) -> bool:
    if mask.dtype == torch.bool:
        told = torch.zeros_like(added).masked_fill(~mask.expand_as(added), float("-inf"))
        closed = (added == float("-inf")) | (added < -1e4)
        return torch.equal(closed, told.isinf()) and bool((added[~closed].abs() < 1e-3).all())
    return torch.allclose(added, mask.expand_as(added), rtol=1e-3, atol=1e-3)


def _returns(seen: Run) -> tuple[str, ...] | str | None:
    if isinstance(seen.output, Tensor):
        return None
    if type(seen.output) is not tuple:
        return f"it returns a {type(seen.output).__name__}"
    logits, out = seen.logits[0], []
    for index, value in enumerate(seen.output):
        if index == 0 and isinstance(value, Tensor):
            out.append("out")
        elif value is None:
            out.append("none")
        elif isinstance(value, Tensor) and value.shape == logits.shape and logits.ndim == 4:
            out.append("weights")
        else:
            return "it returns more than its output and its maps"
    return tuple(out)


def _checked(copy: nn.Module, plan: Plan, call: Call, tokens: set[str]) -> Plan | str:
    """The plan, if ours built from it gives what the copy gives on tokens that nothing was found from; with the mask that was found, and without."""
    ours, inlet = _ours(copy, plan), copy.get_submodule(plan.inlet) if plan.inlet else None
    calls = [call.fresh(tokens, seed) for seed in (3, 4)]
    if plan.mask:
        bare = _without(calls[1], plan.mask)
        calls.append(bare)
    for other in calls:
        try:
            wanted = run(copy, other.given).output
        except (RuntimeError, ValueError, TypeError):
            if plan.mask and other is calls[-1]:
                # it cannot do without its mask, and its model gives it one
                continue
            raise
        made = answer(ours, plan, plan.called((), other.values), "", False, inlet)
        for what, got in zip(plan.returns or ("out",), _pairs(wanted, made), strict=True):
            if what == "none":
                continue
            want, have = got
            if have.shape != want.shape:
                return f"built from what was found, it gives {tuple(have.shape)} and not {tuple(want.shape)}"
            worst = float((have - want).abs().max() / want.abs().max().clamp_min(1e-12))
            if not worst <= TOLERANCE:
                return f"built from what was found, it differs by {worst:.1e} of its largest number"
    return plan


def _without(call: Call, name: str) -> Call:
    return Call(call.names, call.defaults, call.values | {name: None})


def _pairs(wanted: Any, made: Any) -> list[tuple[Any, Any]]:
    return list(zip(wanted, made, strict=True)) if isinstance(wanted, tuple) else [(wanted, made)]


def _ours(copy: nn.Module, plan: Plan) -> TokenAttention:
    """Softmax attention with the copy's parts."""
    place, _ = settled(replace(place_of(copy, plan, None, ""), attn_drop=0.0, proj_drop=0.0), {}, None)
    ours, _ = build(SoftmaxAttention.Config(), place, "exact")
    return ours.eval()
