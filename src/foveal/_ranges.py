"""Numbers of settings: what each may be is said beside its field, and asked in one place whenever a settings object is made, from Python, options or JSON."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar

from ._errors import InputError

__all__ = ["SEED", "Range", "check_ranges", "checked"]

C = TypeVar("C", bound=type)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which numbers a field takes; None beside them where its type allows it, and in a tuple or under names each."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = (("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


SEED = Range(at_least=-(2**63), below=2**64)
"""What torch's random numbers can be started from."""
_ANY = Range()


def check_ranges(settings: Any) -> None:
    """Refuse numbers that a dataclass's ``ranges``, and those of the classes it inherits from, leave out; and numbers that are none, whichever field has them.

    Raises:
        ValueError: a number is not finite or out of its range; the message names the field.
    """
    ranges: dict[str, Range] = {}
    for base in reversed(type(settings).__mro__):
        own = vars(base).get("ranges")
        ranges |= own if isinstance(own, Mapping) else {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        for number in _numbers(value):
            allowed = ranges.get(item.name, _ANY)
            # a whole number that is too large for a float is no matter of isfinite
            fine = math.isfinite(number) if isinstance(number, float) else abs(number) < 2**63 or allowed is SEED
            if fine and allowed.holds(number):
                continue
            each = "each of " if isinstance(value, (tuple, Mapping)) else ""
            large = isinstance(number, int) and abs(number) >= 2**63 and allowed is not SEED
            what = "a whole number of at most 63 bits" if large else "a finite number" if allowed is _ANY else str(allowed)
            raise InputError(f"{each}{item.name} of {type(settings).__name__} must be {what}, got {value!r}")


def checked(cls: C) -> C:
    """Decorates a dataclass that has a ``__post_init__``, its own or one it inherits: its numbers are checked first."""
    further = cls.__post_init__  # type: ignore[attr-defined]

    @wraps(further)
    def check(self: Any) -> None:
        check_ranges(self)
        further(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    return cls


def _numbers(value: Any) -> Iterator[int | float]:
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,):
        if isinstance(part, (int, float)) and not isinstance(part, bool):
            yield part
