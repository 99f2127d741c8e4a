"""What one call shows of an attention: its maps, heads, scale, norms, positions, masks and biases, and what it gives."""

import torch
from torch import Tensor, nn

from ._arguments import Call, sources_of
from ._bias import added_to, settings_of, without_tables
from ._maps import Met, met_in, queries_or_keys, tokens_in
from ._masks import same_mask
from ._outlet import drops_of, returns_of
from ._plan import Plan, turn_of
from ._seen import Run, run
from ._trace import not_one

__all__ = ["ANOTHER_KIND", "NO_MAPS", "NO_OUTPUT_MAP", "NO_SOFTMAX", "shown", "tokens_of"]

ANOTHER_KIND = "is another kind than attention of queries and keys: its weights are made by a map of what asks, and no queries meet keys"

NO_SOFTMAX = not_one(0)
NO_MAPS = "no linear map takes its tokens"
NO_OUTPUT_MAP = "no output map of its own follows the softmax"


def tokens_of(copy: nn.Module, call: Call) -> set[str] | str:
    """The arguments that its maps take."""
    seen = run(copy, call.given)
    if seen.logits and not any(seen.met):
        return f"{ANOTHER_KIND}{', over points that it samples (deformable attention)' if seen.sampled else ', as where tokens are pooled'}"
    if any(bool(value.isnan().all()) for value in seen.logits):
        return "its softmax is over something else than keys"
    if len(seen.logits) != 1:
        return not_one(len(seen.logits))
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
    return names or NO_MAPS


def shown(copy: nn.Module, call: Call, tokens: set[str], mask: str, ends: str) -> Plan | str:
    """What two runs on other tokens show, or what was missing.

    Args:
        copy: of the module, with weights of its own.
        call: as it is called.
        tokens: names of the arguments that its maps take.
        mask: name of the argument that is a mask, if any.
        ends: name of the argument that says where images end, if any.
    """
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
    if added is not None and isinstance(value, Tensor) and same_mask(added, value):
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
    returns = returns_of(runs[0])
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
        softcap=met.softcap,
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
        drops=drops_of(runs[0], behind[0].turn, table.path if table is not None and table.kind == "module" else ""),
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
    products = met.logits(q, k)
    added = seen.logits[0].reshape(products.shape) - products
    return added if not added.isfinite().all() or float(added.abs().max()) > 1e-4 * float(products.abs().max()) else None
