"""What is added to the products of queries and keys: arguments of the call, and a bias that the host makes of its own parameters.

A copy whose queries and keys are zero shows it by itself. Which places of a table it reads is read off as well: the table is filled with numbers that say their
place. Nothing is known of the host's code, and the last check, on the whole, is made as for all others.
"""

import copy as copying
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import Call
from ._maps import Met, head_parts, queries_or_keys
from ._plan import turn_of
from ._position import SQUASHED, Buffer, Decomposed, Table
from ._seen import Run, is_map, run

__all__ = ["Added", "GivenBias", "added_to", "as_pairs", "settings_of", "without_tables"]

UNSAID = "a bias or a mask is added to its logits that none of its arguments says, and no table or module of its own makes"
_CLOSE = 1e-4
"""Of the logits' largest number."""


@dataclass(frozen=True)
class GivenBias:
    """An argument that is added to the logits."""

    name: str
    form: str
    """``pairs``, broadcast to (B, H, Nq, Nk); ``windows``, (windows, Nq, Nk), all windows of all images lying in the batch."""
    gain: float


@dataclass(frozen=True)
class Added:
    """All that is added."""

    given: tuple[GivenBias, ...] = ()
    table: Table | None = None


def as_pairs(value: Tensor, form: str, samples: int) -> Tensor:
    """``(B or 1, H or 1, Nq, Nk)``."""
    return value if form == "pairs" else value.repeat(samples // value.shape[0], 1, 1)[:, None]


def without_tables(module: nn.Module) -> nn.Module | None:
    """A copy whose parameters outside of maps and norms are zero, so that a bias of queries is; None where there are none to speak of."""
    other = copying.deepcopy(module)
    found = [value for _, value in _tables(other)]
    for value in found:
        value.detach().zero_()
    return other if found else None


def added_to(copy: nn.Module, met: Met, heads: int, call: Call, seen: Run, mask: str) -> Added | str:
    """What is added, or why it is not known."""
    still = _still(copy, met)
    shape = _shape(seen, heads)
    alone = _logits(still, call, shape)
    turn = turn_of(call.values[met.rotary]) if met.rotary else None
    q, k = (queries_or_keys(copy, part, met.layout, norm, turn, met.rotation, heads, seen) for part, norm in zip(met.parts[:2], met.norms, strict=True))
    added = seen.logits[0].reshape(shape) - met.logits(q, k)
    size = float((seen.logits[0].reshape(shape).nan_to_num(neginf=0.0)).abs().max())
    if not _same(added, alone, size):
        return _of_queries(copy, met, q, added, seen, call) if alone.isfinite().all() and not float(alone.abs().max()) else UNSAID
    given = _arguments(still, met, call, shape, mask)
    if isinstance(given, str):
        return given
    rest = alone
    bare = call
    for one in given:
        value = call.values[one.name]
        if value.dtype == torch.bool:
            bare = Call(bare.names, bare.defaults, bare.values | {one.name: torch.ones_like(value)})
        else:
            rest = rest - one.gain * as_pairs(value, one.form, shape[0])
    if bare is not call:
        rest = _logits(still, bare, shape)
    if float(rest.abs().max()) <= _CLOSE * size:
        return Added(given)
    if not _same(rest, rest[:1].expand_as(rest), size):
        return UNSAID
    table = _table(still, met, bare, shape, given)
    return UNSAID if table is None else Added(given, table)


def _shape(seen: Run, heads: int) -> tuple[int, int, int, int]:
    logits = seen.logits[0]
    return (logits.shape[0] if logits.ndim == 4 else logits.shape[0] // heads, heads, logits.shape[-2], logits.shape[-1])


@torch.no_grad()
def _still(copy: nn.Module, met: Met) -> nn.Module:
    """A copy whose queries and keys are zero."""
    other = copying.deepcopy(copy)
    for part, norm in zip(met.parts[:2], met.norms, strict=True):
        layer: Any = other.get_submodule(part.path)
        layer.weight[list(part.rows)] = 0
        if layer.bias is not None:
            layer.bias[list(part.rows)] = 0
        for value in other.get_submodule(norm).parameters() if norm and ":" not in norm else ():
            value.zero_()
    return other


def _logits(module: nn.Module, call: Call, shape: tuple[int, ...]) -> Tensor:
    # what is kept for evaluation is made anew
    nn.Module.train(module)
    module.train()
    module.eval()
    return run(module, call.given).logits[0].reshape(shape)


def _same(a: Tensor, b: Tensor, size: float) -> bool:
    closed = (b == float("-inf")) | (b < -1e4)
    return torch.equal(closed, (a == float("-inf")) | (a < -1e4)) and bool(((a - b)[~closed].abs() <= _CLOSE * max(size, 1e-6)).all())


# -- arguments ----------------------------------------------------------------------------------------------------------------------------------------


def _arguments(still: nn.Module, met: Met, call: Call, shape: tuple[int, ...], mask: str) -> tuple[GivenBias, ...] | str:
    """Which of the arguments are added, and how often: each is given other numbers."""
    tokens = {name for part in met.parts for name in part.sources}
    before = _logits(still, call, shape)
    out = []
    for name, value in call.values.items():
        if not isinstance(value, Tensor) or name in tokens or not (value.is_floating_point() or name == mask):
            continue
        form = _form(value, shape)
        if not form:
            continue
        source = torch.Generator().manual_seed(11)
        if value.dtype == torch.bool:
            other = (torch.rand(value.shape, generator=source) > 0.3).to(value.device)
            other[..., 0] = True
            after = _logits(still, Call(call.names, call.defaults, call.values | {name: other}), shape)
            told = as_pairs(other, form, shape[0]).expand(shape)
            if not torch.equal((after == float("-inf")) | (after < -1e4), ~told):
                return f"it is given {name}, whose False does not leave keys out"
            out.append(GivenBias(name, form, 1.0))
            continue
        other = torch.randn(value.shape, generator=source).to(value.device)
        after = _logits(still, Call(call.names, call.defaults, call.values | {name: other}), shape)
        moved, by = after - before, as_pairs(other - value, form, shape[0]).expand(shape)
        if not moved.isfinite().all() or not by.isfinite().all():
            return f"it is given {name} with infinite numbers, so that it cannot be told how it is added"
        if float(moved.abs().max()) == 0:
            continue
        gain = float((moved * by).sum() / by.square().sum())
        if float((moved - gain * by).abs().max()) > _CLOSE * float(moved.abs().max()):
            return f"its logits change with {name} otherwise than by adding it"
        out.append(GivenBias(name, form, round(gain, 6)))
    return tuple(out)


def _form(value: Tensor, shape: tuple[int, ...]) -> str:
    if value.ndim == 3 and value.shape[1:] == shape[2:] and shape[0] % value.shape[0] == 0:
        return "windows"
    fits = value.ndim in (2, 4) and all(got in (1, want) for got, want in zip(value.shape[::-1], shape[::-1], strict=False))
    return "pairs" if fits else ""


def settings_of(copy: nn.Module, met: Met, call: Call, seen: Run, heads: int) -> tuple[tuple[str, Any], ...]:
    """Arguments that are no tensors and that the host's own bias may depend on: sizes, and switches that change it."""
    still, shape = _still(copy, met), _shape(seen, heads)
    before = _logits(still, call, shape)
    out: list[tuple[str, Any]] = []
    for name, value in call.values.items():
        if isinstance(value, bool):
            try:
                after = _logits(still, Call(call.names, call.defaults, call.values | {name: not value}), shape)
            except (RuntimeError, ValueError, TypeError, IndexError):
                after = before + 1
            if not torch.equal(after, before):
                out.append((name, value))
        elif isinstance(value, (int, float)) or (isinstance(value, (tuple, list)) and all(isinstance(part, (int, float)) for part in value)):
            out.append((name, value))
    return tuple(out)


# -- tables -------------------------------------------------------------------------------------------------------------------------------------------


def _tables(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters outside of maps and norms."""
    inside = [f"{path}." for path, part in module.named_modules() if path and (is_map(part) or "norm" in type(part).__name__.lower())]
    for path, value in module.named_parameters():
        if value.ndim >= 2 and not path.startswith(tuple(inside)):
            yield path, value


def _table(still: nn.Module, met: Met, call: Call, shape: tuple[int, ...], given: tuple[GivenBias, ...]) -> Table | None:
    taken = {part.path for part in met.parts}
    for path, part in still.named_modules():
        if path and path not in taken and not is_map(part) and next(part.parameters(), None) is not None:
            found = _made_by(still, path, call, shape, given)
            if found is not None:
                return found
    for path, _ in _tables(still):
        found = _read_from(still, path, call, shape, given)
        if found is not None:
            return found
    return None


def _labels(like: Tensor) -> Tensor:
    """Numbers that say their place, between −4 and 4, where sigmoids still tell them apart."""
    return torch.linspace(-4, 4, like.numel(), dtype=torch.float64).to(like.dtype).view(like.shape).to(like.device)


def _places(labels: Tensor, logits: Tensor, given: tuple[GivenBias, ...], call: Call) -> tuple[tuple[Tensor, ...], str] | None:
    """Where in the table each pair's bias was read, and through what."""
    for said in given:
        value = call.values[said.name]
        if value.dtype != torch.bool:
            logits = logits - said.gain * as_pairs(value, said.form, logits.shape[0])
    one, flat = logits[0], labels.flatten().double()
    if len(flat) < 2 or not torch.allclose(logits, one.expand_as(logits), atol=1e-5):
        return None
    for name, squash in SQUASHED.items():
        told = squash(flat)
        right = torch.searchsorted(told, one.double().contiguous()).clamp(1, len(told) - 1)
        rows = torch.where((told[right] - one).abs() < (told[right - 1] - one).abs(), right, right - 1)
        step = (told[1:] - told[:-1]).min()
        if bool(((told[rows] - one).abs() <= step / 4 + 1e-9).all()) and len(rows.unique()) > 1:
            return _apart(rows), name
    return None


def _apart(rows: Tensor) -> tuple[Tensor, ...]:
    """``(H, N, N)`` as heads and pairs, where each head reads the same pairs at a place of its own."""
    heads = rows[:, 0, 0] - rows[0, 0, 0]
    if not torch.equal(rows, rows[:1] + heads[:, None, None]):
        return (rows,)
    which, pairs = rows[0].unique(return_inverse=True)
    return heads, which, pairs


def _read_from(still: nn.Module, path: str, call: Call, shape: tuple[int, ...], given: tuple[GivenBias, ...]) -> Table | None:
    other = copying.deepcopy(still)
    value = other.get_parameter(path)
    value.detach().copy_(_labels(value))
    found = _places(value.detach(), _logits(other, call, shape), given, call)
    return None if found is None else Table(path, "parameter", rows=found[0], squash=found[1])


def _made_by(still: nn.Module, path: str, call: Call, shape: tuple[int, ...], given: tuple[GivenBias, ...]) -> Table | None:
    """By a module that is given no tokens: what it gives is exchanged for numbers that say their place."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def exchange(part: nn.Module, args: Any, kwargs: Any, made: Any) -> Any:
        seen.append((args, kwargs, made))
        return _labels(made) if isinstance(made, Tensor) else made

    handle = still.get_submodule(path).register_forward_hook(exchange, with_kwargs=True)
    try:
        logits = _logits(still, call, shape)
    finally:
        handle.remove()
    if len(seen) != 1 or not isinstance(seen[0][2], Tensor):
        return None
    args, kwargs, made = seen[0]
    known = [_known(still, value) for value in (*args, *kwargs.values())]
    if any(isinstance(value, Tensor) for value in known):
        return None
    found = _places(_labels(made), logits, given, call)
    if found is None:
        return None
    return Table(path, "module", tuple(known[: len(args)]), tuple(zip(kwargs, known[len(args) :], strict=True)), found[0], found[1])


def _known(module: nn.Module, value: Any) -> Any:
    """A tensor as the buffer that it is."""
    if not isinstance(value, Tensor):
        return value
    return next((Buffer(path) for path, buffer in module.named_buffers() if buffer.shape == value.shape and torch.equal(buffer, value)), value)


# -- tables that queries are multiplied with ------------------------------------------------------------------------------------------------------------


def _of_queries(copy: nn.Module, met: Met, q: Tensor, added: Tensor, seen: Run, call: Call) -> Added | str:
    """Tables of rows and columns, where the tokens say their grid."""
    if any(met.norms) or met.rotary or met.softcap is not None or met.layout == "tokens":
        return UNSAID
    made = head_parts(seen, met)
    height, width = made.shape[1:3] if met.layout == "rows" else made.shape[2:]
    named = [(path, value) for path, value in _tables(copy) if value.ndim == 2 and value.shape[1] == q.shape[-1]]
    for (one, rows), (other, columns) in permutations(named, 2):
        if len(rows) != 2 * height - 1 or len(columns) != 2 * width - 1:
            continue
        told = Decomposed(rows, columns)(q)
        gain = float((told * added).sum() / told.square().sum())
        if float((added - gain * told).abs().max()) <= _CLOSE * float(added.abs().max()):
            return Added(table=replace(Table(one, "decomposed"), other=other, gain=round(gain, 6)))
    return UNSAID
