"""The same call with larger images: what was read at one size has to hold at others, and an axis of one window looks like none."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from ._arguments import Call

__all__ = ["even", "larger"]

_SMALL = 100
"""Tokens up to which an image may become many times as large."""


def larger(call: Call) -> Iterator[Call]:
    """Guesses, some of which the host may not take: other sides of maps, of grids whose size is an argument, and other numbers of tokens."""
    return _resized(call, _sides, lambda count: (4 * count + 3, 4 * count, 2 * count) if count <= _SMALL else (count + 3, 2 * count, 4 * count))


def even(call: Call, most: int = 32) -> Iterator[Call]:
    """Of all sides from two on, so that nothing is left over at some of them, whatever is cut or padded."""
    return _resized(call, lambda grid: [(side, side) for side in range(2, most + 1)], lambda count: tuple(range(2, 2 * most + 1)))


def _resized(call: Call, sides_of: Callable[[tuple[int, ...]], list[tuple[int, int]]], counts_of: Callable[[int], tuple[int, ...]]) -> Iterator[Call]:
    tensors = [value for value in call.values.values() if isinstance(value, Tensor)]
    if not tensors or any(value.shape != tensors[0].shape or not value.is_floating_point() for value in tensors):
        return
    shape = tuple(tensors[0].shape)
    sizes = {name: tuple(value) for name, value in call.values.items() if isinstance(value, (tuple, list)) and all(isinstance(side, int) for side in value)}
    # rows and columns may be two arguments, one after the other
    counts = [name for name, value in call.values.items() if type(value) is int]
    pairs = [(one, other) for one, other in pairwise(counts) if len(shape) == 3 and _is_grid(call, one, other, shape[1])]
    if pairs:
        sizes = {}
    grid = next((value for value in sizes.values() if len(value) == 2), (call.values[pairs[0][0]], call.values[pairs[0][1]]) if pairs else None)
    wanted: list[tuple[tuple[int, ...], tuple[int, int] | None]]
    if len(shape) == 3 and grid is not None:
        rest = shape[1] - prod(grid)
        wanted = [((shape[0], rest + prod(sides), shape[2]), sides) for sides in sides_of(grid)] if rest >= 0 else []
    elif len(shape) == 3:
        wanted = [((shape[0], count, shape[2]), None) for count in counts_of(shape[1])]
    elif len(shape) == 4:
        wanted = [((*shape[:2], *sides), sides) for sides in sides_of(shape[2:])]
        wanted += [((shape[0], *sides, shape[3]), sides) for sides in sides_of(shape[1:3])]
    else:
        wanted = []
    source = torch.Generator().manual_seed(11)
    for size, sides in wanted:
        made = torch.randn(size, generator=source).to(tensors[0].device)
        values = {name: made if isinstance(value, Tensor) else value for name, value in call.values.items()}
        if sides is not None:
            values |= {name: type(call.values[name])(sides) for name, value in sizes.items() if value == grid}
            values |= dict(zip(pairs[0], sides, strict=True)) if pairs else {}
        yield replace(call, values=values)


def _is_grid(call: Call, one: str, other: str, tokens: int) -> bool:
    count = call.values[one] * call.values[other]
    return call.values[one] > 0 and tokens - 8 <= count <= tokens


def _sides(grid: tuple[int, ...]) -> list[tuple[int, int]]:
    height, width = grid
    odd = (4 * height + 3, 3 * width + 5) if height * width <= _SMALL else (height + 3, width + 5)
    return [odd, (4 * height, 3 * width), (2 * height, 2 * width)]
