"""Registries of dataclasses, so that a kind of data, model or task goes to JSON by its class's name and comes back."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from ._errors import unknown
from ._ranges import checked

__all__ = ["Kinds"]

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Kinds(Generic[T]):
    """Classes by name. A class enters by decoration with :meth:`register`, which has its numbers checked whenever one is made; nothing else lists them."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: C) -> C:
        name = cls.__name__
        assert name not in self._classes, f"two kinds of {self._what} are called {name!r}"
        self._classes[name] = cls
        return checked(cls)

    def __getitem__(self, name: str) -> type[T]:
        """The class.

        Raises:
            ValueError: no such kind; the message lists near matches.
        """
        if name not in self._classes:
            raise unknown(f"kind of {self._what}", name, self._classes)
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))
