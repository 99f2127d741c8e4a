"""What a campaign is: faults that are done on purpose, one after another, and what came of each."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foveal._registry import Registry

__all__ = ["CAMPAIGNS", "Size", "Trial", "campaign", "dice"]


@dataclass(frozen=True)
class Trial:
    """One fault, and what came of it."""

    kind: str
    """What was done, such as ``SIGKILL inside a checkpoint``."""
    what: str
    """To what, and when."""
    fault: str = ""
    """What is wrong with how Foveal took it; empty if nothing."""
    counted: str = "good"
    """What it counts as where nothing is wrong: ``good``, or the name of what is told apart from it."""


@dataclass(frozen=True)
class Size:
    """How much is tried."""

    short: bool

    def of(self, whole: int, short: int) -> int:
        return short if self.short else whole


Campaign = Callable[[Path, Size], Iterator[Trial]]
CAMPAIGNS: Registry[Campaign] = Registry("campaign")


def campaign(function: Campaign) -> Campaign:
    """Enter a function that is given a folder of its own to work in."""
    return CAMPAIGNS.add(function.__name__, function)


def dice(*parts: object) -> random.Random:
    """The same choices in every campaign."""
    return random.Random(repr(parts))
