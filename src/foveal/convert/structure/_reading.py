"""What was read of one attention; and one reading for all the forms in which it is called in one run."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ._arguments import Call
from ._plan import Plan

__all__ = ["Reading", "cannot_be_read", "one_for_all"]


@dataclass(frozen=True)
class Reading:
    """What was read of one attention, and the calls that it was proven on."""

    plan: Plan
    calls: tuple[tuple[Call, frozenset[str]], ...]
    """Each with the names of its arguments that are tokens."""


def cannot_be_read(module: nn.Module) -> str:
    """Why nothing of a module is looked at; empty where it can be."""
    if not any(value.is_floating_point() for value in module.parameters()):
        return "it has no weights"
    return "it carries a parametrization, which is no part of a structure" if any(is_parametrized(part) for part in module.modules()) else ""


def one_for_all(readings: list[Reading | str], holds: Callable[[Plan, Reading], str]) -> Reading | str:
    """One plan that holds for every form, or why there is none.

    Args:
        readings: of each form by itself.
        holds: why a plan does not hold for the calls of a reading; empty where it does.
    """
    count = len(readings)
    if count == 1:
        return readings[0]
    if failed := [one for one in readings if isinstance(one, str)]:
        return f"it is called in {count} forms in one run, and in one of them {failed[0]}"
    read = [one for one in readings if isinstance(one, Reading)]
    why = ""
    for candidate in read:
        if not (reasons := [reason for other in read if (reason := holds(candidate.plan, other))]):
            return Reading(candidate.plan, tuple(call for one in read for call in one.calls))
        why = why or reasons[0]
    return f"it is called in {count} forms in one run, and what was read of one does not hold for the others: {why}"
