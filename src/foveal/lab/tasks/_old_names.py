"""Answers of a task under the names that they had before 0.2. For one minor version, with a warning."""

import warnings
from typing import Any

__all__ = ["accept_old_names"]

OLD = {"needs": "model_kwargs", "running": "train_metrics", "renewals": "refresh_steps", "renew": "refresh", "record": "export_state"}


class _Old:
    """The old name of what a class itself defines: ``super().needs(…)`` must find the parent's, not what a child put in its place."""

    def __init__(self, old: str, new: str, value: Any) -> None:
        self._old, self._new, self._value = old, new, value

    def __get__(self, task: Any, cls: type) -> Any:
        _warn(cls, self._old, self._new)
        return self._value.__get__(task, cls) if hasattr(self._value, "__get__") else self._value


def accept_old_names(cls: type) -> None:
    """Give a class of tasks the old names, and take what it defines under an old name as the new one.

    Raises:
        TypeError: it defines both.
    """
    for old, new in OLD.items():
        own = vars(cls)
        if old in own:
            if isinstance(own[old], _Old) or own[old] is own.get(new):
                # a copy that dataclass(slots=True) made
                continue
            if new in own:
                raise TypeError(f"{cls.__name__} defines {new} and {old}, its name of before; leave {old} out")
            _warn(cls, old, new)
            setattr(cls, new, own[old])
        elif new in own:
            setattr(cls, old, _Old(old, new, own[new]))


def _warn(cls: type, old: str, new: str) -> None:
    warnings.warn(f"{cls.__name__}.{old} is called {new} now; the old name goes with the next minor version", DeprecationWarning, stacklevel=4)
