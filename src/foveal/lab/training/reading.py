"""Files of a run as they are read back. Whatever is wrong with one is a line that names the file and the remedy."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..._files import replace_file

__all__ = ["Damaged", "cut_history", "parse_json", "read_history", "read_json", "read_object", "to_json", "write_json"]

_DEEPEST = 64
"""Levels of JSON inside each other; files of ours have fewer than ten."""
_LONGEST = 19
"""Digits of the largest whole number that 64 bits hold."""
_ANEW = "take the file from a copy, or remove it and make it anew"


class Damaged(InputError):
    """A file does not hold what was written there."""


def parse_json(content: bytes, what: str, remedy: str = _ANEW) -> Any:
    """JSON, or one refusal for all that bytes can be instead.

    Args:
        content: of a file, or a line of one.
        what: its name, for the message.
        remedy: likewise.

    Raises:
        ValueError: no UTF-8, no JSON, a number or a nesting that no file of ours has.
    """
    try:
        value = json.loads(content.decode("utf8"), parse_int=_whole)
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits is a ValueError of its own, and JSONDecodeError and UnicodeDecodeError are such
        raise Damaged(f"{what} holds no JSON: {error}; {remedy}") from error
    level, here = 0, [value]
    while here:
        if level > _DEEPEST:
            raise Damaged(f"{what} holds no JSON of ours: values lie inside each other more than {_DEEPEST} deep; {remedy}")
        level, here = level + 1, [inner for outer in here for inner in _inside(outer)]
    return value


def read_json(path: Path, remedy: str = _ANEW) -> Any:
    """Read it, or say which file is wrong.

    Raises:
        ValueError: no such file, one that cannot be read, or no JSON in it.
    """
    return parse_json(_bytes(path, remedy), str(path), remedy)


def read_object(path: Path, names: Sequence[str] = (), remedy: str = _ANEW) -> dict[str, Any]:
    """A JSON object that has these fields.

    Raises:
        ValueError: as :func:`read_json`, and for other JSON.
    """
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise Damaged(f"{path} is damaged: expected an object with named fields, got {_short(value)}; {remedy}")
    missing = [name for name in names if name not in value]
    if missing:
        raise Damaged(f"{path} is damaged: it has no {', '.join(missing)}; {remedy}")
    return value


def read_history(path: Path, numbers: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The entries of a ``history.jsonl`` by growing step, one a step, the last that was written.

    What a process that was killed left of its last line is passed over: the run writes that line again.

    Args:
        path: the file; no entries where there is none.
        numbers: fields that every entry must have as numbers, besides ``step``.

    Raises:
        ValueError: a line of it is no entry.
    """
    if not path.exists() and not path.is_symlink():
        return []
    *lines, last = _bytes(path, _ANEW).split(b"\n")
    entries = [_entry(line, f"line {number} of {path}", numbers) for number, line in enumerate(lines, 1) if line.strip()]
    # a line that was not finished is no damage
    with suppress(Damaged):
        entries += [_entry(last, str(path), numbers)] if last.strip() else []
    # two processes may have written at once, before runs had locks; the course is one, so their entries say the same
    return [entry for _, entry in sorted({entry["step"]: entry for entry in entries}.items())]


def cut_history(path: Path, step: int) -> None:
    """Forget what was written after the checkpoint that the run goes on from."""
    replace_file(path, b"".join(to_json(entry) + b"\n" for entry in read_history(path) if entry["step"] <= step))


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON that every reader takes: what is no number, which Python would write as ``NaN``, is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Write all of it or nothing; NaN and infinities as null."""
    replace_file(path, to_json(value, indent=2) + b"\n")


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        # a name with a null byte is a ValueError
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}; {remedy}") from error


def _entry(line: bytes, what: str, numbers: Sequence[str]) -> dict[str, Any]:
    remedy = "remove that line, or take the file from a copy of the run"
    value = parse_json(line, what, remedy)
    if not isinstance(value, dict) or not isinstance(value.get("step"), int) or isinstance(value["step"], bool):
        raise Damaged(f"{what} is no entry of a history: expected an object with a whole number as step, got {_short(value)}; {remedy}")
    missing = [name for name in numbers if isinstance(value.get(name), bool) or not isinstance(value.get(name), (int, float))]
    if missing:
        raise Damaged(f"{what} has no number as {', '.join(missing)}; {remedy}")
    return value


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _LONGEST:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + " …"
