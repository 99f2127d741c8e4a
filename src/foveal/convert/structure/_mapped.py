"""Maps of a host that are more than rows of one linear layer, called as one of ours is.

Shapes     B samples, N tokens, C width that comes in, R rows of the host's map, I rows that are meant, H heads, D head width
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention._linear import is_plain
from ._flow import channels_first

__all__ = ["NOTHING", "Chain", "Mapped", "NoMap", "Summed"]

NOTHING = -1
"""A row that is always zero."""


class Mapped(nn.Module):
    """A map of the host's with what follows it token by token, and of what it gives the rows that are meant: in another order, several times, or zeros.

    The host's own layers, called: what hangs on them goes on.

    Args:
        layer: ``(C, R)``, linear or a convolution of single pixels.
        behind: norms and functions without weights, each with how its input lies: ``made`` as the map gives it, ``rows`` with all tokens in one axis,
            ``turned`` with channels before tokens.
        rows: which of the R, or :data:`NOTHING`.
        norm: of every head by itself, if any.
        heads: H, with a norm.

    Shape:
        ``(B, N, C) -> (B, N, I)``.
    """

    def __init__(self, layer: Any, behind: Sequence[tuple[Any, str]], rows: Sequence[int], norm: nn.Module | None = None, heads: int = 1) -> None:
        super().__init__()
        self.layer, self.behind = layer, nn.ModuleList([part for part, _ in behind])
        self.norm, self.heads = norm, heads
        self.ways = tuple(way for _, way in behind)
        self.stretches = _stretches(rows)
        self.whole = tuple(rows) == tuple(range(layer.weight.shape[0]))
        self.in_features, self.out_features = layer.weight.shape[1], len(rows)

    @property
    def weight(self) -> Tensor:
        """Of the map alone, the rows that are meant."""
        return self._picked(self.layer.weight.flatten(1).mT).mT

    @property
    def bias(self) -> Tensor | None:
        return None if self.layer.bias is None else self._picked(self.layer.bias[None])[0]

    def forward(self, x: Tensor) -> Tensor:
        made = self._made(x)
        return made if self.norm is None else self.norm(made.unflatten(-1, (self.heads, -1))).flatten(-2)

    def _made(self, x: Tensor) -> Tensor:
        pixels = channels_first(self.layer)
        if not self.behind and (is_plain(self.layer, nn.Conv2d) or is_plain(self.layer, nn.Linear)):
            # the rows that are meant and no others; a convolution with steps takes the pixels that it is given
            return F.linear(x, self.weight, self.bias)
        made = self.layer(x.mT.reshape(x.shape[0], x.shape[2], x.shape[1], *[1] * (self.layer.weight.ndim - 3)) if pixels else x)
        for part, way in zip(self.behind, self.ways, strict=True):
            made = _called(part, made, way)
        return self._picked(made.flatten(2).mT if pixels else made)

    def _picked(self, made: Tensor) -> Tensor:
        if self.whole:
            return made
        parts = [made.new_zeros(*made.shape[:-1], count) if row == NOTHING else made[..., row : row + count] for row, count in self.stretches]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _called(part: nn.Module, made: Tensor, way: str) -> Tensor:
    if way == "rows":
        return part(made.flatten(0, -2)).view(made.shape)
    return part(made.mT).mT if way == "turned" else part(made)


class Summed(nn.Module):
    """Maps of tokens and of what is told of them, as their positions, added up: one map of both side by side.

    Args:
        parts: maps, and which stretch of the width each takes.
        width: of all side by side.

    Shape:
        ``(B, N, C) -> (B, N, I)``.
    """

    def __init__(self, parts: Sequence[tuple[Mapped, tuple[int, int]]], width: int) -> None:
        super().__init__()
        self.parts, self.places = nn.ModuleList([part for part, _ in parts]), tuple(place for _, place in parts)
        self.in_features, self.out_features = width, parts[0][0].out_features

    @property
    def weight(self) -> Tensor:
        weights: list[Tensor] = [part.weight for part in self.parts]  # type: ignore[misc]
        whole = weights[0].new_zeros(self.out_features, self.in_features)
        for (first, last), weight in zip(self.places, weights, strict=True):
            whole = torch.cat([whole[:, :first], whole[:, first:last] + weight, whole[:, last:]], dim=1)
        return whole

    @property
    def bias(self) -> Tensor | None:
        biases: list[Tensor] = [part.bias for part in self.parts if part.bias is not None]  # type: ignore[misc]
        return sum(biases[1:], start=biases[0]) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        made = [part(x[..., first:last]) for part, (first, last) in zip(self.parts, self.places, strict=True)]
        return sum(made[1:], start=made[0])


class NoMap(nn.Module):
    """Where a host has no output map: what comes in comes out.

    Args:
        width: I.
        like: a layer of the place, whose dtype and device it has.
    """

    bias = None

    def __init__(self, width: int, like: Any) -> None:
        super().__init__()
        self.in_features = self.out_features = width
        # in a list, so that it is no part of this one
        self.like = [like]

    @property
    def weight(self) -> Tensor:
        like: Tensor = self.like[0].weight
        return torch.eye(self.in_features, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Chain(nn.Module):
    """What a host does between its values and its output map, token by token: the order of channels, and functions without weights.

    Args:
        heads: H, where the host has them behind the width of a head; 0 where it has them in front, as ours.
        parts: called one after the other.
    """

    def __init__(self, heads: int, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads, self.parts = heads, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1)).mT.flatten(-2) if self.heads else x
        for part in self.parts:
            x = part(x)
        return x


def _stretches(rows: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Rows that follow one another: the first, and how many."""
    out: list[tuple[int, int]] = []
    for row in rows:
        first, count = out[-1] if out else (None, 0)
        if first is not None and row == (NOTHING if first == NOTHING else first + count):
            out[-1] = (first, count + 1)
        else:
            out.append((row, 1))
    return tuple(out)
