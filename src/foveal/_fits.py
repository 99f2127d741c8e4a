"""Whether what came out of JSON or a command line is what a dataclass's field wants."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["described", "fits"]


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is what a field's annotation says. Whole numbers are good floats; truth values are no numbers."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        every = parts[:1] * len(value) if parts[-1] is Ellipsis and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(every) and all(map(fits, value, every))
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else origin or kind)


def described(kind: Any) -> str:
    """An annotation in words."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(described, get_args(kind)))
    return "None" if kind is type(None) else kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
