"""From a module nobody declared to a host: found, checked, and only then believed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..._errors import InputError
from ...attention import SoftmaxAttention, TokenAttention
from .._host import Host, Place
from .._layouts import above
from .._sources import settled
from .._transfer import build
from ._arguments import Call, bound, sources_of
from ._bias import added_to, settings_of, without_tables
from ._maps import Met, met_in, queries_or_keys, tokens_in
from ._packed import one_image, split_otherwise
from ._place import place_of
from ._plan import Plan, turn_of
from ._position import position_of
from ._probe import Given, given_at_place
from ._seen import Run, run, stirred
from ._shell import answer, shell
from ._sister import sisters_of

__all__ = ["NO_OUTPUT_MAP", "Structures", "ours_of", "sisters_in", "structures_of"]

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
    given, broke = given_at_place(model, modules, inputs)
    for name, module in modules.items():
        if name not in given:
            reasons[id(module)] = f"no run reached it{f' ({broke})' if broke else ''}: give a batch with convert_(…, inputs=…)"
            continue
        devices = [value.device.index or 0 for value in module.parameters() if value.device.type == "cuda"]
        with torch.random.fork_rng(devices=sorted(set(devices))), torch.inference_mode(False), torch.no_grad():
            plan = _plan(module, given[name])
        if isinstance(plan, str):
            reasons[id(module)] = plan
        else:
            hosts[id(module)] = _host(plan)
    return Structures(hosts, reasons)


def sisters_in(model: nn.Module, inner: Mapping[str, nn.Module], inputs: Any = None) -> dict[int, Host | str]:
    """The parents of attentions whose output map lies beside them, by identity: how they are replaced, or why they cannot be."""
    return sisters_of(model, inner, _plan, inputs)


def _host(plan: Plan) -> Host:
    def read(module: nn.Module, model: nn.Module, name: str) -> Place:
        if reads_text(model, name):
            raise InputError(f"{name} reads text, which is left alone; name a place in images, for example with where='vision_model.*'")
        return place_of(module, plan, model, name)

    return Host(read, lambda module, ours: shell(module, ours, plan))


def reads_text(model: nn.Module, name: str) -> bool:
    """Whether the nearest configuration above is one of text alone."""
    for owner in (model.get_submodule(name), *above(model, name)):
        config = getattr(owner, "config", None)
        if config is None or isinstance(config, nn.Module):
            continue
        return hasattr(config, "vocab_size") and not any(hasattr(config, key) for key in ("patch_size", "image_size", "vision_config", "num_channels"))
    return False


def _plan(module: nn.Module, given: Given) -> Plan | str:
    """What was found and holds, or why nothing is believed."""
    if not any(value.is_floating_point() for value in module.parameters()):
        return "it has no weights"
    if any(is_parametrized(part) for part in module.modules()):
        return "it carries a parametrisation, which is no part of a structure"
    call = bound(module, given)
    if isinstance(call, str):
        return call
    try:
        copy = stirred(module)
        call, ends = one_image(call)
        tokens = _tokens(copy, call)
        if isinstance(tokens, str):
            return tokens
        masked, mask = (call, "") if ends else _with_mask(copy, call, tokens)
        plan = _found(copy, masked, tokens, mask, ends)
        if isinstance(plan, str) and masked is not call:
            # a mask that nobody gave may be ignored, or honored in a way that is not known: one that comes later is refused then
            plan, masked = _found(copy, call, tokens, "", ends), call
        call = masked
        if isinstance(plan, str):
            return plan
        return _checked(copy, plan, call, tokens)
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
    others = ""
    for one in seen.maps:
        if one.turn < seen.turns[0]:
            found = sources_of(one.given, call)
            # a map that makes a bias takes no tokens; what takes others shows in what follows
            others = others or (one.path if found is None else "")
            names |= set() if found is None else set(found[0])
    if not names and others:
        return f"{others} takes something else than the tokens (or tokens and positions) of its call, as where keys are reduced or windows cut inside"
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
    windows = mask[: len(mask) // 2 if len(mask) % 2 == 0 else None, 0]
    for form in (mask, windows) if mask.is_floating_point() else (mask,):
        other = Call(call.names, call.defaults, call.values | {name: form})
        try:
            seen = run(copy, other.given)
        except (RuntimeError, ValueError, TypeError, IndexError):
            continue
        # given one of another form, some make more samples of it without a word
        if seen.logits[0].shape == logits.shape:
            return other, name
    return call, name


def _found(copy: nn.Module, call: Call, tokens: set[str], mask: str, ends: str) -> Plan | str:
    calls = call.fresh(tokens, 1), call.fresh(tokens, 2)
    runs = run(copy, calls[0].given), run(copy, calls[1].given)
    behind = [one for one in runs[0].maps if one.turn > runs[0].turns[0]]
    if len(behind) != 1:
        return NO_OUTPUT_MAP if not behind else f"{len(behind)} maps follow the softmax, and one is read"
    met = met_in(copy, calls, runs)
    if isinstance(met, str) and (bare := without_tables(copy)) is not None:
        other = met_in(bare, calls, (run(bare, calls[0].given), run(bare, calls[1].given)))
        met = met if isinstance(other, str) else other
    if isinstance(met, str):
        return met
    heads = _heads(copy, met, runs[0])
    added = _added(copy, met, heads, calls[0], runs[0])
    used, value = "", call.values.get(mask)
    given: tuple[tuple[str, str, float], ...] = ()
    table = None
    if added is not None and isinstance(value, Tensor) and _same_mask(added, value):
        used = mask
    elif added is not None:
        more = added_to(copy, met, heads, calls[0], runs[0], mask)
        if isinstance(more, str):
            return more
        used = mask if any(one.name == mask and one.form == "pairs" and one.gain == 1 for one in more.given) else ""
        given, table = tuple((one.name, one.form, one.gain) for one in more.given if one.name != used), more.table
    if isinstance(value, Tensor) and mask not in (used, *(name for name, _, _ in given)):
        return f"it is given {mask} and its logits do not show it"
    if ends and (used or given or table is not None):
        return "its tokens are of several images and a bias is added to its logits, which is not read together"
    returns = _returns(runs[0])
    if isinstance(returns, str):
        return returns
    known = {name for part in met.parts for name in part.sources} | {used, met.rotary, ends} | {name for name, _, _ in given}
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
        given=given,
        table=table,
        fixed=() if table is None else settings_of(copy, met, calls[0], runs[0], heads),
        tokens=runs[0].logits[0].shape[-1],
        asks_apart=_asks_apart(met, call),
        ends=ends,
        returns=returns,
        harmless=harmless,
    )


def _asks_apart(met: Met, call: Call) -> bool:
    """Whether others ask than are read: arguments of other names may hold the same tokens."""
    asked, read = ([call.values[name] for name in part.sources] for part in met.parts[:2])
    return len(asked) != len(read) or any(one is not other and not torch.equal(one, other) for one, other in zip(asked, read, strict=True))


def _heads(copy: nn.Module, met: Met, seen: Run) -> int:
    made = next(one.made for one in seen.maps if one.path == met.parts[0].path)
    samples, logits = tokens_in(made, met.layout).shape[0], seen.logits[0]
    return logits.shape[1] if logits.ndim == 4 else logits.shape[0] // samples


def _added(copy: nn.Module, met: Met, heads: int, call: Call, seen: Run) -> Tensor | None:
    """What is added to the products, ``(B, H, Nq, Nk)``; None where nothing is."""
    turn = turn_of(call.values[met.rotary]) if met.rotary else None
    q, k = (queries_or_keys(copy, part, met.layout, norm, turn, met.rotation, heads, seen) for part, norm in zip(met.parts[:2], met.norms, strict=True))
    products = (q @ k.mT) * met.scale
    added = seen.logits[0].reshape(products.shape) - products
    return added if not added.isfinite().all() or float(added.abs().max()) > 1e-4 * float(products.abs().max()) else None


def _same_mask(added: Tensor, mask: Tensor) -> bool:
    if mask.dtype == torch.bool:
        told = torch.zeros_like(added).masked_fill(~mask.expand_as(added), float("-inf"))
        if not _fits(mask, added):
            return False
        closed = (added == float("-inf")) | (added < -1e4)
        return torch.equal(closed, told.isinf()) and bool((added[~closed].abs() < 1e-3).all())
    return _fits(mask, added) and torch.allclose(added, mask.expand_as(added), rtol=1e-3, atol=1e-3)


def _fits(mask: Tensor, logits: Tensor) -> bool:
    return mask.ndim <= 4 and all(got in (1, want) for got, want in zip(mask.shape[::-1], logits.shape[::-1], strict=False))


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
        elif isinstance(value, Tensor) and value.ndim == 3 and value.numel() == logits.numel() and value.shape[1:] == logits.shape[-2:]:
            # samples and heads in one axis
            out.append("folded")
        elif type(value) is list and all(part is None for part in value):
            out.append("each")
        else:
            return "it returns more than its output and its maps"
    return tuple(out)


def _checked(copy: nn.Module, plan: Plan, call: Call, tokens: set[str]) -> Plan | str:
    """The plan, if ours built from it gives what the copy gives on tokens that nothing was found from; with the mask that was found, and without."""
    ours, position = ours_of(copy, plan), position_of(copy, plan.table)
    calls = [call.fresh(tokens, seed) for seed in (3, 4)]
    optional = [name for name in (plan.mask, *(name for name, _, _ in plan.given)) if isinstance(call.values.get(name), Tensor)]
    if plan.ends:
        calls += [split_otherwise(calls[1], plan.ends, cuts) for cuts in ([0, plan.tokens // 4, plan.tokens], [0, plan.tokens // 2, plan.tokens])]
    masked = plan.mask or next((name for name in _MASKS if name in call.names or name in call.values), "")
    alone = bool(masked) and plan.layout == "tokens" and not plan.asks_apart
    if optional:
        calls.append(_without(calls[1], optional))
    for other in calls:
        try:
            wanted = run(copy, other.given).output
        except (RuntimeError, ValueError, TypeError):
            if optional and other is calls[-1]:
                # it cannot do without its mask, and its model gives it one
                continue
            raise
        made = answer(ours, plan, plan.called((), other.values), "", False, position)
        if alone and other.values.get(masked) is None and not _close(wanted, made):
            # PyTorch's kernel is told that a module is causal where no mask says otherwise
            plan = replace(plan, causal_alone=True)
            made = answer(ours, plan, plan.called((), other.values), "", False, position)
        for what, got in zip(plan.returns or ("out",), _pairs(wanted, made), strict=True):
            if what in ("none", "each"):
                continue
            want, have = got
            if have.shape != want.shape:
                return f"built from what was found, it gives {tuple(have.shape)} and not {tuple(want.shape)}"
            worst = float((have - want).abs().max() / want.abs().max().clamp_min(1e-12))
            if not worst <= TOLERANCE:
                return f"built from what was found, it differs by {worst:.1e} of its largest number"
    return plan


def _close(wanted: Any, made: Any) -> bool:
    want, have = ((value[0] if isinstance(value, tuple) else value) for value in (wanted, made))
    return have.shape == want.shape and float((have - want).abs().max()) <= TOLERANCE * float(want.abs().max())


def _without(call: Call, names: list[str]) -> Call:
    return Call(call.names, call.defaults, call.values | dict.fromkeys(names))


def _pairs(wanted: Any, made: Any) -> list[tuple[Any, Any]]:
    return list(zip(wanted, made, strict=True)) if isinstance(wanted, tuple) else [(wanted, made)]


def ours_of(copy: nn.Module, plan: Plan) -> TokenAttention:
    """Softmax attention with the copy's parts."""
    place, _ = settled(replace(place_of(copy, plan, None, ""), attn_drop=0.0, proj_drop=0.0), {}, None)
    ours, _ = build(SoftmaxAttention.Config(), place, "exact")
    return ours.eval()
