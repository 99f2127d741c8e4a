"""Where a map meets its values: products of tensors, and how the map in them is turned to ``(B, H, Nq, Nk)``.

Shapes     B batch, H heads, Nq queries, Nk keys, D head width
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ._axes import CHANNEL, MIXED, UNKNOWN, Axes, Followed, is_parameter

__all__ = ["BETWEEN_CHANNELS", "HEADS", "PRODUCTS", "Product", "arranged", "product"]

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead", "num_head", "nheads", "head_count", "attention_heads", "n_local_heads")
"""What modules call the number of their heads."""

BETWEEN_CHANNELS = "it attends between channels, and not between tokens"
_LINEAR = "it sums tokens up by channel before queries come, as linear attention does: no map of tokens is ever made"
_SLOTS = "its values are parameters, and not tokens"


@dataclass(frozen=True)
class Product:
    """A map times values."""

    operand: Tensor
    axes: Axes
    query: tuple[int, ...]
    key: int
    values: Tensor
    values_axis: int

    def refused(self, followed: Followed) -> str:
        """Why it is no map of tokens; empty if it is one."""
        if is_parameter(self.values):
            return _SLOTS
        if followed.labels(self.values)[self.values_axis] == CHANNEL:
            return BETWEEN_CHANNELS
        if self.axes.labels[self.key] != CHANNEL and any(self.axes.labels[axis] == CHANNEL for axis in self.query):
            return _LINEAR
        return ""


def product(followed: Followed, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Product | None:
    """The product of a map with values in a call, if it is one; notes what is known of its result if it is not."""
    if not isinstance(out, Tensor):
        return None
    if name == "einsum":
        return _einsum(followed, args, out)
    given = [*args, *kwargs.values()]
    pair = given[1:3] if name in _ADDING else given[:2]
    if len(pair) < 2:
        return None
    a, b = reversed(pair) if name == "__rmatmul__" else pair
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or min(a.ndim, b.ndim) < 2:
        return None
    return _contracted(followed, out, a, b, (*range(a.ndim - 2), -3, -1), (*range(b.ndim - 2), -1, -4), None)


def _contracted(followed: Followed, out: Tensor, a: Tensor, b: Tensor, at: Sequence[Any], bt: Sequence[Any], outcome: Sequence[Any] | None) -> Product | None:
    """Of ``a`` and ``b`` whose axes are called ``at`` and ``bt``; those of ``out`` are called ``outcome``, or if None as in a matrix product."""
    batch: Sequence[Any] = ()
    if outcome is None:
        # axes of the batch are counted from behind, as they are broadcast
        at, bt = (tuple(place - (len(t) - 2) - 10 if place >= 0 else place for place in t) for t in (at, bt))
        batch = range(-10 - (out.ndim - 2), -10)
        outcome = (*batch, -3, -4)
    first, second = followed.get(a), followed.get(b)
    summed = [t for t in at if t in bt and t not in outcome]
    known: dict[Any, str] = {}
    for axes, x, xt in ((first, a, at), (second, b, bt)):
        # what stands on the right and is learned is a linear map; on the left it may be learned queries
        labels = axes.labels if axes is not None else (CHANNEL if x is b and is_parameter(x) else UNKNOWN,) * x.ndim
        for t, label in zip(xt, labels, strict=True):
            if known.get(t, UNKNOWN) == UNKNOWN or (t not in at and label == CHANNEL):
                known[t] = label
    made = Axes(tuple(known.get(t, UNKNOWN) for t in outcome))
    followed.put(out, made)
    for x, axes, xt, other, ot in ((a, first, at, b, bt), (b, second, bt, a, at)):
        if axes is None or axes.key is None or xt[axes.key] not in summed:
            continue
        beside = followed.get(other)
        query = tuple(place for place, t in enumerate(xt) if t in outcome and t not in ot and t not in batch)
        if len(query) > 1:
            # heads that share their values ask no more than others
            query = tuple(place for place in query if axes.labels[place] != CHANNEL) or query
        if len(query) and not (beside is not None and beside.normalized and beside.key is not None and ot[beside.key] in outcome):
            return Product(x, axes, query, axes.key, other, list(ot).index(xt[axes.key]))
    for axes, xt in ((first, at), (second, bt)):
        if axes is not None and axes.key is not None and xt[axes.key] in outcome:
            made = Axes(made.labels, list(outcome).index(xt[axes.key]), axes.normalized, axes.lead)
    if made.key is None and first is not None and second is not None and len(summed) == 1:
        of_channels = first.labels[list(at).index(summed[0])] == second.labels[list(bt).index(summed[0])] == CHANNEL
        asks, asked = ([place for place, t in enumerate(outcome) if t in own and t not in other] for own, other in ((at, bt), (bt, at)))
        if of_channels and len(asks) == len(asked) == 1 and CHANNEL not in (made.labels[asks[0]], made.labels[asked[0]]):
            made = Axes(made.labels, asked[0])
    followed.put(out, made)
    return None


def _einsum(followed: Followed, args: Sequence[Any], out: Tensor) -> Product | None:
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not isinstance(args[0], str) or len(operands) != 2 or not all(isinstance(x, Tensor) for x in operands):
        return None
    given, _, outcome = args[0].replace(" ", "").partition("->")
    terms = given.split(",")
    if not outcome:
        outcome = "".join(sorted(letter for letter in set(given) - {",", "."} if given.count(letter) == 1))
    at, bt = (_letters(term, x.ndim) for term, x in zip(terms, operands, strict=True))
    return _contracted(followed, out, operands[0], operands[1], at, bt, _letters(outcome, out.ndim))


def _letters(term: str, ndim: int) -> list[Any]:
    before, dots, behind = term.partition("...")
    missing = ndim - len(before) - len(behind) if dots else 0
    return [*before, *range(-missing, 0), *behind]


def arranged(found: Product, module: nn.Module, batch: int | None) -> Callable[[Tensor], Tensor]:
    """How the operand, or its gradient, becomes ``(B, H, Nq, Nk)``; windows of an image stand one after the other in B.

    Args:
        found: where the map is.
        module: whose it is, as it may say how many heads it has.
        batch: samples that the module was given, if that is known.
    """
    ahead = [axis for axis in range(found.operand.ndim) if axis not in (*found.query, found.key)]
    sizes = [found.operand.shape[axis] for axis in ahead]
    labels = [found.axes.labels[axis] for axis in ahead]
    apart, named = found.axes.lead
    if len(sizes) == 1 and len(apart) > 1 and math.prod(apart) == sizes[0]:
        sizes, labels = list(apart), list(named)
    heads = next((value for name in HEADS if type(value := getattr(module, name, None)) is int), None)
    # of two that were split apart, one is the heads
    together = labels.index(MIXED) if labels.count(MIXED) == 1 and CHANNEL not in labels else 0 if len(sizes) == 1 else None
    if together is not None:
        size = sizes[together]
        by_batch = None if batch is None or size % batch else size // batch
        if labels[together] == CHANNEL and batch == 1:
            by_batch = size
        of = by_batch if heads is None or by_batch == heads else heads if size % heads == 0 else by_batch
        # one head, where nobody says that there are more
        of = 1 if of is None or (heads is None and len(sizes) > 1) else of
        sizes[together : together + 1], labels[together : together + 1] = [size // of, of], [UNKNOWN, CHANNEL]
    elif not sizes:
        sizes, labels = [1, 1], [UNKNOWN, CHANNEL]
    place = _place_of_heads(sizes, labels, heads)
    queries, keys = math.prod(found.operand.shape[axis] for axis in found.query), found.operand.shape[found.key]
    order = [axis for axis in range(len(sizes)) if axis != place]

    def arrange(x: Tensor) -> Tensor:
        x = x.permute(*ahead, *found.query, found.key).reshape(*sizes, queries, keys)
        return x.permute(*order, place, -2, -1).reshape(-1, sizes[place], queries, keys)

    return arrange


def _place_of_heads(sizes: list[int], labels: list[str], heads: int | None) -> int:
    """Heads come from channels, and are as many as the module says."""
    by_size = [place for place, size in enumerate(sizes) if size == heads]
    by_label = [place for place, label in enumerate(labels) if label == CHANNEL]
    both = [place for place in by_size if place in by_label]
    if both or len(by_label) == 1 or len(by_size) == 1:
        return (both or (by_label if len(by_label) == 1 else by_size))[0]
    return 1


_ADDING = frozenset({"baddbmm", "addmm", "addbmm", "baddbmm_", "addmm_"})
PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "einsum", *_ADDING})
