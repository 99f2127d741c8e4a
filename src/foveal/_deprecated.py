"""Public names of before, which answer for one minor version with a warning."""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["renamed"]


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__``: ``__getattr__ = renamed(__name__, {"Old": "New"})``.

    Raises:
        AttributeError: a name that the module neither has nor had.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        warnings.warn(f"{module}.{name} is {new} now; the old name goes with the next minor version", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], new)

    return find
