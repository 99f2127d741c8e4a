"""What the proofs that train have in common: arms, a training loop, and rows of a table.

A proof is a module with the task and its ``PROOF``; ``__main__`` lists them, the slow tests hold each arm to its gate, and both read the same figures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor, nn

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """A line of a table: one mechanism, a figure for each seed.

    ``limit`` is the best that theory allows, ``pilot`` the figure of an earlier run by other code, ``gate`` what each seed is held to, both ends included.
    """

    mechanism: str
    figures: Sequence[float]
    gate: tuple[float, float]
    reading: str
    limit: float | None = None
    pilot: float | None = None
    some: tuple[float, float] | None = None
    """What at least one seed is held to besides: of a mechanism that can do it and does not in every seed."""

    @property
    def met(self) -> bool:
        return all(_within(figure, self.gate) for figure in self.figures) and (self.some is None or any(_within(figure, self.some) for figure in self.figures))


@dataclass(frozen=True)
class Arm:
    """A row to be: ``figure`` trains the mechanism with a seed and gives what came of it."""

    mechanism: str
    figure: Callable[[int], float]
    gate: tuple[float, float]
    reading: str
    limit: float | None = None
    pilot: float | None = None
    some: tuple[float, float] | None = None

    def __str__(self) -> str:
        return self.mechanism


@dataclass(frozen=True)
class Proof:
    """A section of the page.

    ``rows`` takes seeds and gives rows as they are ready; ``about`` says what is trained and what was claimed, ``notes`` what follows and where it differs from
    what was expected.
    """

    title: str
    about: str
    figure: str
    rows: Callable[[Sequence[int]], Iterator[Row]]
    notes: str = ""


def rows_of(arms: Sequence[Arm]) -> Callable[[Sequence[int]], Iterator[Row]]:
    def rows(seeds: Sequence[int]) -> Iterator[Row]:
        for arm in arms:
            yield Row(arm.mechanism, [arm.figure(seed) for seed in seeds], arm.gate, arm.reading, arm.limit, arm.pilot, arm.some)

    return rows


def fit(
    model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor], steps: int, lr: float, enough: float = 0.0
) -> int:
    """Adam on fresh batches; ends early once the loss was below ``enough`` on 20 in a row. Returns the steps taken."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    below = 0
    for step in range(1, steps + 1):
        x, y = batch()
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        below = below + 1 if value.item() < enough else 0
        if below == 20:
            return step
    return steps


class Residual(nn.Module):
    """``x + mixer(x)`` on maps, for mixers that bring no residual of their own."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(x)


class OnMaps(nn.Module):
    """A mixer of tokens, ``(B, N, C)``, as one of maps, ``(B, C, H, W)``."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.flatten(2).mT).mT.unflatten(-1, x.shape[2:])


def line(row: Row) -> str:
    """The row in Markdown."""
    spread = f"{min(row.figures):.3f} – {max(row.figures):.3f}"
    known = ["" if value is None else f"{value:.3f}" for value in (row.limit, row.pilot)]
    gate = _words(row.gate) + ("" if row.some is None else f"; one seed {_words(row.some)}")
    return f"| {row.mechanism} | {mean(row.figures):.3f} | {spread} | {' | '.join(known)} | {gate if row.met else f'**{gate}: not met**'} | {row.reading} |"


def _within(figure: float, gate: tuple[float, float]) -> bool:
    return gate[0] <= figure <= gate[1]


def _words(gate: tuple[float, float]) -> str:
    low, high = gate
    return f"≥ {low:.3g}" if high == float("inf") else f"≤ {high:.3g}" if low == -float("inf") else f"{low:.3g} … {high:.3g}"
