"""Official names to ours, by their beginnings."""

from collections.abc import Callable, Mapping

from torch import Tensor

from .._errors import InputError
from ._registry import State

__all__ = ["Rule", "rename", "same"]

Rule = tuple[str, Callable[[Tensor], Tensor]]
"""Our beginning, and what happens to the tensor."""


def same(value: Tensor) -> Tensor:
    return value


def rename(state: State, rules: Mapping[str, Rule], what: str) -> dict[str, Tensor]:
    """Every tensor under our name.

    Args:
        state: by official names.
        rules: by beginnings of official names; the first that fits decides.
        what: the official module in words.

    Raises:
        ValueError: a name that begins with none of them.
    """
    out = {}
    for key, value in state.items():
        beginning = next((beginning for beginning in rules if key.startswith(beginning)), None)
        if beginning is None:
            raise InputError(f"{key!r} is no key of this official {what}; expected {', '.join(rules)}")
        ours, change = rules[beginning]
        out[ours + key.removeprefix(beginning)] = change(value)
    return out
