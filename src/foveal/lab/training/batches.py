"""What comes on a run's way: batches, in the task's order or shuffled, and what the task learns of its data between steps."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, send_to_device
from torch import nn
from torch.utils.data import DataLoader

from ..._errors import InputError
from ..data import DataBundle, Split, seed_of
from ..tasks import State, Task
from .checkpoint import replace_file
from .order import Order, Seeded, StepSampler, collated
from .recipe import Recipe

__all__ = ["BatchStream", "Samples"]


class Samples:
    """A split as training sees it first: in its order, in batches on a device, as often as it is asked for."""

    def __init__(self, split: Split, recipe: Recipe, device: torch.device) -> None:
        positions = [(0, index) for index in range(len(split))]
        batch = recipe.task.eval_batch_size
        self._loader = DataLoader(Seeded(split, recipe.seed), sampler=positions, batch_size=batch, num_workers=recipe.workers, collate_fn=recipe.task.collate)
        self._device = device

    def __iter__(self) -> Iterator[Any]:
        return (send_to_device(batch, self._device) for batch in self._loader)


class BatchStream:
    """Batches from any step on. Nearly all tasks never refresh: then it is one loader for the whole run."""

    def __init__(self, recipe: Recipe, bundle: DataBundle, model: nn.Module, accelerator: Accelerator, run: Path, state: State) -> None:
        self._recipe, self._bundle, self._model, self._accelerator, self._run, self._state = recipe, bundle, model, accelerator, run, state
        self._refresh_steps = recipe.task.refresh_steps(recipe.steps)
        self._draws = sum(phase.batches for phase in recipe.task.phases())
        self._batches: Iterator[Any] | None = None

    def batches(self, step: int) -> Iterator[Any]:
        """The micro-batches of this process from a step on; asked at every step, in turn."""
        if self.refreshes(step):
            self._refresh(step)
        if self.refreshes(step) or self._batches is None:
            self._batches = iter(self._loader(step))
        return self._batches

    def refreshes(self, step: int) -> bool:
        """Whether the task learns something of its data before a step."""
        return step in self._refresh_steps

    def saved(self) -> dict[str, State]:
        """What a checkpoint must hold to go on."""
        return {"task": self._state} if self._state else {}

    def _refresh(self, step: int) -> None:
        task, seed = self._recipe.task, seed_of(self._recipe.seed, "renew", step)
        torch.manual_seed(seed)
        with torch.no_grad():
            samples = Samples(self._bundle.train, self._recipe, self._accelerator.device)
            state = task.refresh(step, self._model.eval(), samples, self._bundle, seed)
        # statistics of batch norm differ among processes, and so could what is learned from them; the main process's are those of the checkpoint
        on_device = broadcast({name: value.to(self._accelerator.device) for name, value in state.items()})
        self._state = {name: value.cpu() for name, value in on_device.items()}
        if self._accelerator.is_main_process:
            for name, content in task.export_state(self._state, self._bundle).items():
                replace_file(self._run / name, content)

    def _loader(self, step: int) -> DataLoader[Any]:
        recipe, accelerator = self._recipe, self._accelerator
        order = recipe.task.order(self._bundle, recipe.batch_size, recipe.seed, self._state)
        if order is not None and recipe.repeats > 1:
            raise InputError(f"{type(recipe.task).__name__} has an order of its own, in which samples cannot be repeated; leave repeats at 1")
        order = order or Order(len(self._bundle.train), recipe.batch_size, recipe.seed, recipe.repeats)
        until = min((other for other in self._refresh_steps if other > step), default=recipe.steps)
        rank, world = accelerator.process_index, accelerator.num_processes
        return DataLoader(
            # a task that collates in a way of its own sees samples
            Seeded(self._bundle.train, recipe.seed, whole=type(recipe.task).collate is Task.collate),
            batch_sampler=StepSampler(order, step * self._draws, until * self._draws, rank=rank, world=world, accumulate=recipe.optim.accumulate),
            num_workers=recipe.workers,
            pin_memory=accelerator.device.type == "cuda",
            collate_fn=partial(collated, recipe.task.collate),
        )
