"""Which maps make queries and keys, in how many heads and of what scale: what their products have to do with the logits that were seen.

Two runs on other tokens are compared: what is added to the logits, masks and biases, is the same in both and falls out of the difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import Call, sources_of
from ._norm import norm_of, norms_in
from ._plan import Part, rotated, turn_of
from ._seen import Map, Run

__all__ = ["Met", "head_parts", "met_in", "queries_or_keys", "tokens_in"]

_CLOSE = 2e-5
"""Of the logits' largest number."""


@dataclass(frozen=True)
class Met:
    """How queries and keys meet."""

    parts: tuple[Part, Part, Part]
    layout: str
    norms: tuple[str, str]
    rotary: str
    rotation: str
    scale: float
    softcap: float | None = None
    """Logits are kept within it by a hyperbolic tangent, before what is added."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        """Before what is added."""
        return _capped((q @ k.mT) * self.scale, self.softcap)


def tokens_in(x: Tensor, layout: str) -> Tensor:
    """What a map takes or gives, as ``(B, N, C)``."""
    if layout == "packed":
        return x[None]
    return x.flatten(2).transpose(1, 2) if layout == "map" else x.flatten(1, -2)


def head_parts(run: Run, met: "Met") -> Tensor:
    """What the map of queries made, as it made it."""
    return next(one.made for one in run.maps if one.path == met.parts[0].path)


def met_in(module: nn.Module, calls: tuple[Call, Call], runs: tuple[Run, Run]) -> Met | str:
    """The first arrangement whose products explain the logits, or what was missing."""
    first = runs[0]
    before = [one for one in first.maps if one.turn < first.turns[0]]
    # what takes the same whatever the tokens are, and none of the arguments, makes a bias
    before = [one for one in before if not any(_same(one, other) for other in runs[1].maps) or sources_of(one.given, calls[0]) is not None]
    sources: list[tuple[tuple[str, ...], str]] = []
    for one in before:
        found = sources_of(one.given, calls[0])
        if found is None:
            return f"{one.path} takes something else than the tokens (or tokens and positions) of the call, as where keys are reduced or windows are cut inside"
        names, layout = found
        if layout == "map4":
            layout = "map" if isinstance(module.get_submodule(one.path), nn.Conv2d) else "rows"
        sources.append((names, layout))
    layouts = {layout for _, layout in sources}
    if len(layouts) != 1:
        return "its maps take tokens in more than one layout"
    layout = layouts.pop()
    logits = first.logits[0]
    samples = tokens_in(before[0].made, layout).shape[0]
    if logits.ndim == 3 and logits.shape[0] % samples == 0:
        logits = logits.unflatten(0, (samples, -1))
    if logits.ndim != 4 or logits.shape[0] != samples:
        return f"its logits are {tuple(logits.shape)}, not one map a head of its {samples} samples"
    heads = logits.shape[1]
    seen = [run.logits[0].reshape(logits.shape) for run in runs]
    if any(not value.isfinite().any() for value in seen):
        return "its softmax is over something else than keys"
    softcap, seen = _uncapped(runs, seen)
    norms, rotations = list(norms_in(module, heads)), list(_rotations(calls[0]))
    for parts in _arrangements(before, [names for names, _ in sources], heads, layout):
        for norm in norms:
            for rotary, rotation in rotations:
                scale = _scale(module, parts, layout, norm, rotary, rotation, heads, calls, runs, seen)
                if scale is not None:
                    return Met(parts, layout, norm, rotary, rotation, scale, softcap)
    return f"the products of {', '.join(one.path for one in before)} in {heads} heads do not make its logits"


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def _uncapped(runs: tuple[Run, Run], seen: list[Tensor]) -> tuple[float | None, list[Tensor]]:
    """Logits before they were kept within a number, and that number; None where they are not."""
    bent = [[one.reshape(logits.shape) for one in run.bent if one.numel() == logits.numel()] for run, logits in zip(runs, seen, strict=True)]
    if any(len(one) != 1 for one in bent):
        return None, seen
    inner = [one[0].double() for one in bent]
    open_ = seen[0].isfinite() & seen[1].isfinite() & (seen[0].abs() < 1e4) & (seen[1].abs() < 1e4)
    of_logits, of_bent = (seen[0].double() - seen[1].double())[open_], (inner[0].tanh() - inner[1].tanh())[open_]
    if of_bent.numel() < 8 or float(of_bent.square().sum()) == 0:
        return None, seen
    cap = float((of_logits * of_bent).sum() / of_bent.square().sum())
    if cap <= 0 or float((of_logits - cap * of_bent).abs().max()) > _CLOSE * float(of_logits.abs().max()):
        return None, seen
    cap = float(f"{cap:.5g}")
    return cap, [torch.where(logits.isfinite() & (logits.abs() < 1e4), cap * one, logits.double()) for one, logits in zip(inner, seen, strict=True)]


def _same(one: Map, other: Map) -> bool:
    return one.path == other.path and one.given.shape == other.given.shape and torch.equal(one.given, other.given)


def queries_or_keys(module: nn.Module, part: Part, layout: str, norm: str, turn: tuple[Tensor, Tensor] | None, rotation: str, heads: int, run: Run) -> Tensor:
    """``(B, H, N, D)`` of what a map gave."""
    made = tokens_in(next(one.made for one in run.maps if one.path == part.path), layout)[..., list(part.rows)]
    made = made.unflatten(-1, (heads, -1)).transpose(1, 2)
    made = norm_of(module, norm)(made)
    return made if turn is None else rotated(made, *turn, rotation)


def _scale(module: Any, parts: Any, layout: str, norm: Any, rotary: str, rotation: str, heads: int, calls: Any, runs: Any, seen: list[Tensor]) -> float | None:
    """What the products are multiplied with, if that makes the logits of both runs but for what is the same in both."""
    products = []
    for call, run, logits in zip(calls, runs, seen, strict=True):
        turn = turn_of(call.values[rotary]) if rotary else None
        try:
            q, k = (queries_or_keys(module, part, layout, name, turn, rotation, heads, run) for part, name in zip(parts[:2], norm, strict=True))
        except (RuntimeError, ValueError, IndexError):
            # of another width: no arrangement of this module
            return None
        if q.shape[-1] != k.shape[-1] or (*q.shape[:-1], k.shape[-2]) != logits.shape:
            return None
        products.append(q.double() @ k.double().mT)
    # far below all others is what a mask leaves out, and no numbers are left there to compare
    open_ = seen[0].isfinite() & seen[1].isfinite() & (seen[0].abs() < 1e4) & (seen[1].abs() < 1e4)
    of_logits, of_products = (seen[0].double() - seen[1].double())[open_], (products[0] - products[1])[open_]
    if of_logits.numel() < 8 or float(of_products.square().sum()) == 0:
        return None
    scale = float((of_logits * of_products).sum() / of_products.square().sum())
    worst = float((of_logits - scale * of_products).abs().max())
    return scale if worst <= _CLOSE * float(of_logits.abs().max()) and scale > 0 else None


def _arrangements(maps: list[Map], sources: list[tuple[str, ...]], heads: int, layout: str) -> Iterator[tuple[Part, Part, Part]]:
    """Queries, keys and values, in all the ways that the rows of the maps may mean."""
    widths = [tokens_in(one.made, layout).shape[-1] for one in maps]
    total, given = sum(widths), dict(zip((one.path for one in maps), sources, strict=True))
    if total % (3 * heads) or len(maps) not in (1, 2, 3) or len(given) != len(maps):
        return
    inner = total // 3
    width = inner // heads
    pieces: list[list[tuple[str, torch.Tensor]]]
    if len(maps) == 3:
        pieces = [[(one.path, torch.arange(inner)) for one in maps]] if len(set(widths)) == 1 else []
    else:
        pieces = []
        for how in ("blocks", "heads", "last"):
            parts: list[tuple[str, Tensor]] = []
            for one, rows in zip(maps, widths, strict=True):
                count = rows // inner
                if rows % inner or count not in (1, 2, 3):
                    return
                if how == "blocks" or count == 1:
                    grid = torch.arange(rows).view(count, heads, width)
                elif how == "heads":
                    grid = torch.arange(rows).view(heads, count, width).transpose(0, 1)
                else:
                    grid = torch.arange(rows).view(heads, width, count).permute(2, 0, 1)
                parts += [(one.path, grid[index].flatten()) for index in range(count)]
            pieces.append(parts)
    for parts in pieces:
        for order in permutations(range(3)):
            q, k, v = (Part(parts[index][0], tuple(parts[index][1].tolist()), given[parts[index][0]]) for index in order)
            yield q, k, v


def _rotations(call: Call) -> Iterator[tuple[str, str]]:
    yield "", ""
    for name, value in call.values.items():
        if isinstance(value, Tensor) and value.is_complex():
            yield name, "pairs"
        if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, Tensor) and part.ndim in (2, 3) for part in value):
            yield name, "half"
            yield name, "pairs"
