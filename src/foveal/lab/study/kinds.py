"""What a run of each kind of part does, by name: one row a kind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._registry import Registry
from .registration import Layer, Part
from .unit import Unit

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """What a part of this kind is made of."""

    run: Callable[[Unit, Path], dict[str, float]]
    """A run to its values by metric; the folder is that of the study."""
    build: Callable[[Part, str, Layer, str], Any]
    """The network of an arm in a setting, of which the weights are counted."""
    tuned_by: str = ""
    """The value that chooses rates; what is judged if empty, on other seeds."""
    angles: Callable[[Unit, Path], dict[str, float] | None] | None = None
    """Reads angles at ``start`` and ``end`` from what a run left, where parts of this kind do not measure them as they go."""


KINDS: Registry[Kind] = Registry("kind of part")
