"""Folders and lists of names that sets of clouds come with."""

from pathlib import Path

from ...._errors import InputError
from .._foreign import few, read_text
from .._walk import Passed, is_hidden

__all__ = ["lines_of_list", "need_folder", "visible_files"]


def need_folder(path: Path, expected: str) -> Path:
    """The folder, if it is one.

    Raises:
        ValueError: it is not there; the message says what a set must hold.
    """
    if not Path(path).is_dir():
        raise InputError(f"{path} is no folder; expected {expected}")
    return Path(path)


def lines_of_list(path: Path) -> list[str]:
    """Lines that are not empty, each once.

    Raises:
        ValueError: the file is not there, holds none, or one twice.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there; it comes with the set: get it from where the other files are")
    found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not found:
        raise InputError(f"{path} is empty; get it anew")
    if len(set(found)) < len(found):
        raise InputError(f"{path} has {few(sorted({line for line in found if found.count(line) > 1}))} twice")
    return found


def visible_files(folder: Path, ending: str, passed: Passed) -> list[Path]:
    """Files with an ending, in the order of their names; ``passed`` is told what is passed over."""
    found = []
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            passed.add("hidden or left behind by a system", path)
        elif path.suffix.lower() != ending:
            passed.ending(path.name, path)
        else:
            found.append(path)
    return found
