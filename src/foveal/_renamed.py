"""Old names of arguments, attributes and module members: they warn, and go with the next minor version."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ._errors import InputError

__all__ = ["moved_member", "renamed_arguments", "renamed_attribute", "renamed_keys", "warn_renamed"]

P = ParamSpec("P")
R = TypeVar("R")


def warn_renamed(what: str, old: str, new: str, *, stacklevel: int = 3) -> None:
    warnings.warn(f"{what}: {old} is called {new} now; the old name goes with the next minor version", DeprecationWarning, stacklevel=stacklevel)


def renamed_keys(what: str, values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """``values`` under their new names, without a warning: files keep the names of their day.

    Raises:
        ValueError: a value under both names.
    """
    for old, new in names.items():
        if old in values and new in values:
            raise InputError(f"{what} got {new} and {old}, which is its old name; give {new} alone")
    return {names.get(key, key): value for key, value in values.items()}


def renamed_arguments(what: str, **names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function that takes ``old=`` for each ``old="new"`` here, with a warning.

    Raises:
        ValueError: from the function, where an argument comes under both names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = tuple(inspect.signature(function).parameters)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs or new in parameters[: len(args)]:
                        raise InputError(f"{what} got {new} and {old}, which is its old name; give {new} alone")
                    warn_renamed(what, old, new)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_attribute(what: str, old: str, new: str, *, silent: bool = False) -> Any:
    """A property under the old name of an attribute; silent on modules, of which TorchScript's tracer reads every attribute that there is."""

    def read(self: Any) -> Any:
        if not silent:
            warn_renamed(what, old, new)
        return getattr(self, new)

    return property(read, doc=f"Deprecated: the old name of ``{new}``.")


def moved_member(module: str, name: str, names: Mapping[str, str], members: Mapping[str, Any]) -> Any:
    """For ``__getattr__`` of a module: what an old name stands for.

    Raises:
        AttributeError: no old name of this module.
    """
    if name not in names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn_renamed(module, name, names[name])
    return members[names[name]]
