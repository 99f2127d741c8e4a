"""Files that are whole or not there: written under another name, flushed to disk, and renamed. And JSON that somebody else wrote."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from ._errors import InputError

__all__ = ["check_folder", "flush", "flush_folder", "parse_json", "refused", "replace_file"]


def check_folder(path: Path) -> None:
    """Whether results can be put here, before any work is done for them; nothing is made.

    Raises:
        ValueError: it, or what it would lie in, is a file or cannot be written to.
    """
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file; expected a folder, or a path where one can be made")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{nearest} cannot be written to; choose another folder")


def refused(error: OSError, place: Path | None = None) -> str:
    """What the operating system refused, and what helps, for an error of one line.

    Args:
        error: the refusal.
        place: the folder that was worked in, where that is known.
    """
    where = error.filename or place
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    what = f"{error.strerror or last[:200]}{f': {where}' if where is not None else ''}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({what}); make room"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"it is not allowed to read or write there ({what}); allow it, or choose another place"
    if error.errno == errno.ENOENT:
        return f"what was there is gone ({what}); put it back"
    return f"the operating system refused ({what}); mend that"


def parse_json(text: str, name: str) -> Any:
    """Values of a JSON text.

    Raises:
        ValueError: it is no JSON, is nested too deep, or holds a number of thousands of digits; ``name`` says where it came from.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{name} is no JSON that can be read: it is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{name} is no JSON: {error}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place whole, so that whoever reads it sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flush(partial, content)
        partial.replace(path)
    except BaseException:
        # on a full disk half a file takes the room that is wanted
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    # a rename is on disk when its folder is
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
