"""Which samples a step sees: a function of the seed and the step, so a run can stop anywhere and go on, on any number of processes."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..data import Split, seed_of
from ..tasks import SampleOrder

__all__ = ["GivesBatches", "Order", "Seeded", "StepSampler", "collated"]

Position = tuple[int, ...]
"""Which time round, and index, and what the task's own order adds."""


class Order:
    """An endless walk over ``length`` samples, shuffled anew each time round; every sample comes ``repeats`` times in a row, as another time round each."""

    def __init__(self, length: int, batch_size: int, seed: int, repeats: int = 1) -> None:
        self._length, self._batch_size, self._seed, self._repeats = length, batch_size, seed, repeats
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def batch(self, step: int) -> list[Position]:
        """The samples of a step, over all processes."""
        draws = [divmod(p, self._repeats) for p in range(step * self._batch_size, (step + 1) * self._batch_size)]
        # the draws of one sample lie far apart, so that mixing neighbors mixes samples, and processes share them
        draws.sort(key=lambda draw: draw[1])
        return [self._position(*divmod(p, self._length), repeat) for p, repeat in draws]

    def _position(self, epoch: int, place: int, repeat: int) -> Position:
        return epoch * self._repeats + repeat, int(self._permutation(epoch)[place])

    def _permute(self, epoch: int) -> Tensor:
        return torch.randperm(self._length, generator=torch.Generator().manual_seed(seed_of(self._seed, "order", epoch)))


class StepSampler(Sampler[list[Position]]):
    """This process's micro-batches, from a step on."""

    def __init__(self, order: SampleOrder, first: int, last: int, *, rank: int = 0, world: int = 1, accumulate: int = 1) -> None:
        self._order, self._steps = order, range(first, last)
        self._rank, self._parts = rank, world * accumulate
        self._accumulate = accumulate

    def __len__(self) -> int:
        return len(self._steps) * self._accumulate

    def __iter__(self) -> Iterator[list[Position]]:
        for step in self._steps:
            batch = self._order.batch(step)
            size, left = divmod(len(batch), self._parts)
            assert not left, f"{len(batch)} samples of step {step} cannot be shared by {self._parts}"
            for micro in range(self._accumulate):
                start = (self._rank * self._accumulate + micro) * size
                yield batch[start : start + size]


class Seeded(Dataset[tuple[Any, ...]]):
    """A split whose augmentation depends on seed, epoch and index alone, whichever process reads it. What a position adds is added to the sample.

    With ``whole`` a split that gives batches gives them; they then go through :func:`collated`.
    """

    def __init__(self, split: Split, seed: int, *, whole: bool = False) -> None:
        self._split, self._seed = split, seed
        self._batch = split.batch if whole and isinstance(split, GivesBatches) and not split.augments else None

    def __getitem__(self, position: Position) -> tuple[Any, ...]:
        epoch, index, *added = position
        if not self._split.augments:
            return (*self._split[index], *added)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed seeds accelerators too, and where there is none keeps the traceback of every call
            torch.default_generator.manual_seed(seed_of(self._seed, "augment", epoch, index))
            return (*self._split[index], *added)

    def __getitems__(self, positions: list[Position]) -> "list[tuple[Any, ...]] | Batch":
        if self._batch is None or any(len(position) > 2 for position in positions):
            return [self[position] for position in positions]
        return Batch(*self._batch([position[1] for position in positions]))


class Batch(NamedTuple):
    """Samples that are collated already."""

    inputs: Tensor
    targets: Tensor


@runtime_checkable
class GivesBatches(Protocol):
    """A split that reads the samples of a batch at once, as ``default_collate`` would put them together."""

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...


def collated(collate: Callable[[Any], tuple[Any, Any]], samples: Any) -> tuple[Any, Any]:
    """A batch, by the task's way if it is none yet."""
    return (samples.inputs, samples.targets) if isinstance(samples, Batch) else collate(samples)
