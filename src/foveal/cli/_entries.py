"""Names with what they are, as wide as the terminal."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .._console import plain

__all__ = ["Entry", "entry_lines", "fits", "terminal_width"]


@dataclass(frozen=True)
class Entry:
    """A name, the group that it is shown under, and what it is."""

    name: str
    group: str
    about: str


def terminal_width() -> int:
    """Columns for text: those of the terminal, no more than can be read."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 20), 120)


def fits(entry: Entry, word: str) -> bool:
    """Whether a word is in the name, the group or the description; with ``*`` or ``?`` it is a pattern of the name."""
    if any(letter in word for letter in "*?["):
        return fnmatchcase(entry.name.lower(), word.lower())
    return any(word.lower() in text.lower() for text in (entry.name, entry.group, entry.about))


def entry_lines(title: str, entries: Sequence[Entry], width: int, *, full: bool) -> Iterator[str]:
    """A title, and below it the entries by group: with ``full`` a description each, else names in columns."""
    yield title
    groups = dict.fromkeys(entry.group for entry in entries)
    longest = max(len(plain(entry.name)) for entry in entries)
    for group in groups:
        inside = [entry for entry in entries if entry.group == group]
        if group:
            yield from textwrap.wrap(plain(group), width, initial_indent="  ", subsequent_indent="  ")
        if full and any(entry.about for entry in inside):
            for entry in inside:
                yield from _described(entry, longest, width)
        else:
            names = "  ".join(plain(entry.name) for entry in inside)
            # names have hyphens, and are not to be cut there
            yield from textwrap.wrap(names, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    yield ""


def _described(entry: Entry, longest: int, width: int) -> list[str]:
    name, about = plain(entry.name), plain(entry.about)
    # beside long names too little room is left for a sentence, so that it goes below
    if width - longest - 6 < 36:
        return [f"    {name}", *textwrap.wrap(about, width, initial_indent="      ", subsequent_indent="      ")]
    first = f"    {name:<{longest}}  "
    return textwrap.wrap(about, width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False) or [first.rstrip()]
