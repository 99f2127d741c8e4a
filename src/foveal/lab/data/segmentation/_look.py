"""What the masks of a set hold as a whole: nobody can learn a class without a pixel, nor be judged where nothing is known."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError
from .._foreign import few
from ._bundle import IGNORE
from ._labels import Labels, Mask

__all__ = ["Seen", "check_seen", "two_classes"]


@dataclass(frozen=True)
class Seen:
    """Pixels of each number in the masks of a split, ``(256,)``."""

    pixels: NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask) -> "Seen":
        return cls(np.bincount(mask.ravel(), minlength=256))

    @classmethod
    def total(cls, parts: Iterable["Seen"]) -> "Seen":
        return cls(np.sum([part.pixels for part in parts], axis=0))

    def absent(self, labels: Labels) -> list[str]:
        return [name for number, name in enumerate(labels.classes) if not self.pixels[number]]


def check_seen(seen: dict[str, Seen], labels: Labels, where: object) -> list[str]:
    """Notes on classes without a pixel.

    Raises:
        ValueError: training shows one class or none; in a split every pixel is of no class.
    """
    notes = []
    for name, one in seen.items():
        absent = one.absent(labels)
        if len(absent) == len(labels.classes):
            raise InputError(f"{where}: in {name} every pixel of every mask is of no class. {remedy(labels)}")
        if name == "train" and len(absent) == len(labels.classes) - 1:
            raise one_class(labels, next(known for known in labels.classes if known not in absent), where)
        if absent:
            notes.append(f"{len(absent)} of {len(labels.classes)} classes have no pixel in {name}: {few(absent)}")
    return notes


def two_classes(masks: Iterator[Mask], labels: Labels, where: object) -> None:
    """The same for training alone, by as few masks as show two classes.

    Raises:
        ValueError: there are not two.
    """
    known: set[int] = set()
    for mask in masks:
        known |= set(np.unique(mask).tolist()) - {IGNORE}
        if len(known) > 1:
            return
    if not known:
        raise InputError(f"{where}: in train every pixel of every mask is of no class. {remedy(labels)}")
    raise one_class(labels, labels.classes[known.pop()], where)


def one_class(labels: Labels, name: str, where: object) -> InputError:
    return InputError(f"{where}: the masks of train show the one class {name!r}, and nothing can be learned. {remedy(labels)}")


def remedy(labels: Labels) -> str:
    if labels.colors:
        return "Look at the colors of the masks"
    unknown = "" if labels.closed else " where nobody knows"
    binary = ". Where the masks hold 0 and 255, give --data.values 0 255" if len(labels.classes) == 2 and not labels.closed else ""
    return f"Expected {labels.expected()}{unknown}{binary}"
