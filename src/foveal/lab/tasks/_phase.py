"""Parts of a training step that move parameters of their own, each by its own loss: most tasks have one, adversaries have two."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..._errors import InputError

__all__ = ["Phase", "parameters_of"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a training step does in turn: which parameters move, on how many batches, and how."""

    name: str = "all"
    """By which :meth:`Task.step` and a checkpoint know it."""
    parameters: tuple[str, ...] = ("",)
    """How the names of those that move begin; of all others the phase needs no gradient."""
    batches: int = 1
    """Batches of the data that it takes, with a step of its optimizer each. 0: it draws none and takes one step, which sees the last batch before it."""
    optim: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``Optim`` that differ from the recipe's."""

    @property
    def steps(self) -> int:
        """Steps of its optimizer in one of the recipe's."""
        return max(1, self.batches)


def parameters_of(model: nn.Module, phases: tuple[Phase, ...]) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters that each phase moves, by its name.

    Raises:
        ValueError: phases of one name, a first one that draws nothing, or parameters that no phase or more than one of them moves.
    """
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names) or not phases or phases[0].batches < 1:
        raise InputError(f"expected phases of different names of which the first draws a batch, got {phases}")
    owned: dict[str, list[nn.Parameter]] = {name: [] for name in names}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owners = [phase.name for phase in phases if name.startswith(phase.parameters)]
            if len(owners) != 1:
                raise InputError(f"parameter {name} must be moved by one phase of {names}, and it is by {owners or 'none'}")
            owned[owners[0]].append(parameter)
    return owned
