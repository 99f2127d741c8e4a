"""Things by name: near matches for a name that is not known, and no name twice."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ._errors import InputError, unknown
from ._old_members import accept_old_fields
from ._ranges import checked

__all__ = ["Registry"]

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Mapping[str, T]):
    """Things by name, in the order of their names. Classes of settings enter by decoration with :meth:`register`, anything else by :meth:`add`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Enter a thing.

        Raises:
            ValueError: the name is taken; the message says by what.
        """
        self.check_free(name)
        self._entries[name] = entry
        return entry

    def check_free(self, name: str) -> None:
        """Refuse a name that is taken, before anything is changed.

        Raises:
            ValueError: it is; the message says by what.
        """
        if name in self._entries:
            raise InputError(f"the {self._what} {name!r} is already registered: {self._entries[name]!r}; choose another name")

    def register(self, cls: C) -> C:
        """Enter a dataclass by its own name; its numbers are checked whenever one is made."""
        self.add(cls.__name__, cls)  # type: ignore[arg-type]
        return accept_old_fields(checked(cls))

    def __getitem__(self, name: str) -> T:
        """The thing.

        Raises:
            ValueError: no such name; the message lists near matches.
        """
        if name not in self._entries:
            raise unknown(self._what, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str, default: Any = None) -> Any:
        """The thing, or ``default`` where there is none."""
        return self._entries.get(name, default)

    def remove(self, name: str) -> T:
        """Take a thing out, as a test does with what it entered.

        Raises:
            ValueError: no such name.
        """
        found = self[name]
        del self._entries[name]
        return found
