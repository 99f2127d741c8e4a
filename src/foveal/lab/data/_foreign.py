"""Files of other people: text, JSON and single values, read in one place with one list of refusals.

Whatever is wrong with them is an :class:`~foveal.InputError` that names the file, and the entry where there is one. Nothing is allocated by a number that
stands in a file before the number was looked at.
"""

import codecs
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..._files import parse_json

__all__ = ["Entry", "few", "is_real", "lines_of", "parse_json", "read_json", "read_text", "real_place", "to_text"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # before UTF-16, whose little-endian mark it begins with
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN = 20
_NUMBERS = 2**63
"""What torch's and NumPy's integers end before."""


def few(names: Sequence[str], shown: int = _SHOWN) -> str:
    """Names in a row, the first of many."""
    return "; ".join(names[:shown]) + (f"; and {len(names) - shown} more" if len(names) > shown else "")


def to_text(content: bytes, name: str) -> str:
    """Text in UTF-8, or in what a byte-order mark says; the mark is no part of it.

    Raises:
        ValueError: other bytes, such as Latin-1; ``name`` says where.
    """
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {name} as text: byte {error.start} is not of {error.encoding}; save it in UTF-8") from error
    if "\0" in text:
        raise InputError(f"cannot read {name} as text: it has null bytes, as UTF-16 without a byte-order mark; save it in UTF-8")
    return text


def read_text(path: Path) -> str:
    """A text file, see :func:`to_text`.

    Raises:
        ValueError: it is not there, cannot be read, or is no text.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return to_text(content, str(path))


def lines_of(text: str) -> list[str]:
    """Lines as editors show them; :meth:`str.splitlines` would break one at form feeds and at what Unicode calls separators, too."""
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def real_place(path: Path) -> str:
    """Where a file is that a list names, so that two spellings and links are one; its name as it is where no file can have it."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def read_json(path: Path) -> Any:
    """Values of a JSON file.

    Raises:
        ValueError: see :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path), str(path))


class Entry:
    """An object in a file of other people, whose fields are looked at before they are used.

    Args:
        values: the object.
        file: where it stands.
        what: what it is there, such as ``annotation 5``.

    Raises:
        ValueError: it is no object.
    """

    __slots__ = ("_file", "_values", "_what")

    def __init__(self, values: Any, file: Path, what: str) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{file} is not in COCO's format: {what} is {_shown(values)}; expected an object")
        self._values, self._file, self._what = values, file, what

    def named(self, what: str) -> "Entry":
        """The same under another name."""
        return Entry(self._values, self._file, what)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """A field, None if it is not there."""
        return self._values.get(name)

    def need(self, name: str) -> Any:
        """A field that must be there."""
        if name not in self._values:
            raise InputError(f"{self._file} is not in COCO's format: KeyError {name!r}, {self._what} has no such field")
        return self._values[name]

    def whole(self, name: str, *, least: int = 1 - _NUMBERS, most: int = _NUMBERS - 1) -> int:
        """A whole number; 3.0 is one, "3" and true are none."""
        value = self.need(name)
        good = is_real(value) and value == int(value)
        if not good or not least <= value <= most:
            bounds = "a whole number" if least < 0 else f"a whole number from {least} on"
            raise self.wrong(name, bounds)
        return int(value)

    def real(self, name: str) -> float:
        """A finite number."""
        value = self.need(name)
        if not is_real(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def reals(self, name: str, count: int) -> list[float]:
        """So many finite numbers."""
        values = self.need(name)
        if not isinstance(values, list) or len(values) != count or not all(map(is_real, values)):
            raise self.wrong(name, f"{count} finite numbers")
        return [float(value) for value in values]

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.need(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "a text")
        return value

    def wrong(self, name: str, expected: str) -> InputError:
        """The error for a field that cannot be used."""
        return InputError(f"{self._file}: {self._what} has {name} {_shown(self._values.get(name))}; expected {expected}")


def is_real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # a whole number of JSON may be too large for a float
    return abs(value) < _NUMBERS if isinstance(value, int) else math.isfinite(value)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    # a number of thousands of digits, or a list nested too deep to be written
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
