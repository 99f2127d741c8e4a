"""Old names of what a class of settings answers to. For one minor version, with a warning."""

from collections.abc import Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from ._errors import InputError
from ._renamed import renamed_attribute, warn_renamed

__all__ = ["accept_old_fields", "accept_old_members", "new_values"]

C = TypeVar("C", bound=type)


class _Old:
    """The old name of what a class itself defines: ``super().needs(…)`` must find the parent's, not what a child put in its place."""

    def __init__(self, old: str, new: str, value: Any) -> None:
        self._old, self._new, self._value = old, new, value

    def __get__(self, part: Any, cls: type) -> Any:
        warn_renamed(cls.__name__, self._old, self._new)
        return self._value.__get__(part, cls) if hasattr(self._value, "__get__") else self._value


def accept_old_members(cls: type, names: Mapping[str, str]) -> None:
    """Give a class the old names of its methods and class attributes, and take what it defines under an old name as the new one.

    Raises:
        TypeError: it defines both.
    """
    for old, new in names.items():
        own = vars(cls)
        if old in own:
            if isinstance(own[old], _Old) or own[old] is own.get(new):
                # a copy that dataclass(slots=True) made
                continue
            if new in own:
                raise TypeError(f"{cls.__name__} defines {new} and {old}, its name of before; leave {old} out")
            warn_renamed(cls.__name__, old, new, stacklevel=4)
            setattr(cls, new, own[old])
        elif new in own:
            setattr(cls, old, _Old(old, new, own[new]))


def new_values(cls: type, values: Mapping[str, Any], *, warn: bool = False) -> dict[str, Any]:
    """Values by field under the new names of ``cls.old_names``, and those of ``cls.old_values`` as they are written now. Files keep the words of their day.

    Raises:
        ValueError: a value under both names.
    """
    names: Mapping[str, str] = getattr(cls, "old_names", {})
    words: Mapping[str, Mapping[str, Any]] = getattr(cls, "old_values", {})
    found = {}
    for key, value in values.items():
        name = names.get(key, key)
        if name != key:
            if name in values:
                raise InputError(f"{cls.__name__} got {name} and {key}, which is its old name; give {name} alone")
            if warn:
                warn_renamed(cls.__name__, key, name, stacklevel=4)
        if isinstance(value, str) and value in words.get(name, {}):
            if warn:
                warn_renamed(f"{cls.__name__}.{name}", repr(value), repr(words[name][value]), stacklevel=4)
            value = words[name][value]
        found[name] = value
    return found


def accept_old_fields(cls: C) -> C:
    """Let a dataclass that has ``old_names`` be made with them, and be asked for them."""
    if not (hasattr(cls, "old_names") or hasattr(cls, "old_values")):
        return cls
    make = cls.__init__  # type: ignore[misc]

    @wraps(make)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **new_values(cls, kwargs, warn=True))

    cls.__init__ = init  # type: ignore[misc]
    taken = {item.name for item in fields(cls)}
    for old, new in getattr(cls, "old_names", {}).items():
        if old not in taken:
            setattr(cls, old, renamed_attribute(cls.__name__, old, new))
    return cls
