"""The phases of a task, opened: an optimizer, a schedule and a scaler each."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from ..tasks import Phase, Task, parameters_of
from .groups import hold, own_rates, rates_in_use
from .optimizing import make_optimizer, make_schedule
from .recipe import Recipe
from .sharding import is_sharded, shard_

__all__ = ["OpenPhase", "PartEma", "naming", "open_phases", "trained_names"]


@dataclass
class OpenPhase:
    """A phase and what it trains with."""

    phase: Phase
    recipe: Recipe
    """With the optimization settings of this phase."""
    own: list[nn.Parameter]
    others: list[nn.Parameter]
    """Of other phases: trainable, and still while this one lasts."""
    optimizer: Any
    schedule: Scheduler
    trained: Any = None
    """What the step calls, as accelerate prepared it."""
    scaler: Any = None
    """Of losses in float16; none in other precisions."""
    named: dict[str, str] = field(default_factory=dict)
    """What :meth:`Task.step` is told: the phase, where there are several."""

    def prepare_(self, forward: nn.Module, accelerator: Accelerator) -> None:
        """Put the parts where accelerate wants them. A process group gets this phase's gradients and no others'."""
        self.begin_(accelerator)
        if is_sharded(self.recipe, accelerator):
            self.trained = shard_(forward, self.optimizer, accelerator)
            self.optimizer = accelerator.prepare_optimizer(self.optimizer)
            self.own = [value for group in self.optimizer.param_groups for value in group["params"]]
            return
        self.trained, self.optimizer = accelerator.prepare(forward, self.optimizer)

    def begin_(self, accelerator: Accelerator) -> None:
        """From now on losses are of this phase."""
        accelerator.scaler = self.scaler
        if self.others:
            for parameter in self.own:
                parameter.requires_grad_(True)
            for parameter in self.others:
                parameter.requires_grad_(False)

    def schedule_(self, step: int) -> None:
        """The rate of this step."""
        self.schedule.step_update(step)
        hold(self.optimizer, self.recipe, step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict() if self.scaler is not None else {}}


def open_phases(model: nn.Module, recipe: Recipe, accelerator: Accelerator) -> list[OpenPhase]:
    """The phases of the recipe's task, in their order, with optimizers that are not prepared yet.

    Raises:
        ValueError: phases that are none, see :func:`foveal.lab.tasks.parameters_of`.
    """
    phases = recipe.task.phases()
    owned = parameters_of(model, phases)
    names = {id(value): name for name, value in model.named_parameters()}
    own_rates(recipe.optim.lr_of, trained_names(model, recipe.task))
    made = []
    for place, phase in enumerate(phases):
        own = owned[phase.name]
        others = [parameter for name, parameters in owned.items() if name != phase.name for parameter in parameters]
        for parameter in others:
            parameter.requires_grad_(False)
        # names are of the whole network, and a phase has some of it
        rates = rates_in_use(recipe.optim.lr_of, [names[id(value)] for value in own])
        mine = replace(recipe, optim=replace(recipe.optim, **phase.optim, lr_of=rates)) if phase.optim or rates != recipe.optim.lr_of else recipe
        optimizer = make_optimizer(model, mine, own if others else None)
        for parameter in others:
            parameter.requires_grad_(True)
        scaler = accelerator.scaler if not place else copy.deepcopy(accelerator.scaler)
        made.append(OpenPhase(phase, mine, own, others, optimizer, make_schedule(optimizer, mine), scaler=scaler, named=naming(phase, phases)))
    return made


def trained_names(model: nn.Module, task: Task) -> list[str]:
    """Names of the parameters that some phase of the task moves, which are those that rates by name are of.

    Raises:
        ValueError: phases that are none, see :func:`foveal.lab.tasks.parameters_of`.
    """
    names = {id(value): name for name, value in model.named_parameters()}
    return [names[id(value)] for own in parameters_of(model, task.phases()).values() for value in own]


def naming(phase: Phase, phases: Sequence[Phase]) -> dict[str, str]:
    """Arguments of :meth:`Task.step`, which of a single phase knows nothing."""
    return {"phase": phase.name} if len(phases) > 1 else {}


class PartEma(ModelEmaV3):
    """An average of the weights of a part of the network; buffers, and the other parts, are those of the network as it is."""

    def __init__(self, model: nn.Module, task: Task, **options: Any) -> None:
        super().__init__(model, exclude_buffers=True, **options)
        self._part, self._settle = task.averaged(), task.settle_

    def update(self, model: nn.Module, step: int | None = None) -> None:
        super().update(model, step=step)
        _copy(model.named_parameters(), self.module, lambda name: not name.startswith(self._part))

    def settle_(self, model: nn.Module) -> None:
        """Make buffers that follow from weights those of the average; they begin at the network's, so that to settle twice changes nothing."""
        _copy(model.named_buffers(), self.module, lambda name: True)
        self._settle(self.module)


@torch.no_grad()
def _copy(named: Any, to: nn.Module, taken: Callable[[str], bool]) -> None:
    own = {**dict(to.named_parameters()), **dict(to.named_buffers())}
    pairs = [(own[name], value) for name, value in named if taken(name)]
    if pairs:
        # all at once: one by one they cost a launch each, at every step
        torch._foreach_copy_([mine for mine, _ in pairs], [value for _, value in pairs])
