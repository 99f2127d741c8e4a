"""One row: a family, and how its smallest model is built, with what it is called with."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Built", "Missing", "Row", "installed"]

Built = tuple[nn.Module, Any]
"""The model, and its input: a tensor, or a mapping that is given by name."""


class Missing(Exception):
    """The library of a row is not installed, or too old."""


@dataclass(frozen=True)
class Row:
    library: str
    family: str
    build: Callable[[], Built]
    shown: bool = False
    """Whether the family stands in the list that conversion was written against; the others tell whether its kind was covered."""

    @property
    def key(self) -> str:
        return "".join(letter if letter.isalnum() else "_" for letter in self.family).strip("_")


def installed(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise Missing(f"{name} is not installed")
