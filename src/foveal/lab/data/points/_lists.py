"""Folders and lists of names that sets of clouds come with."""

import os
from pathlib import Path

from ...._errors import InputError
from .._foreign import few, read_text
from .._walk import Passed, is_hidden

__all__ = ["files_of_list", "lines_of_list", "need_folder", "visible_files"]


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


def files_of_list(path: Path) -> list[Path]:
    """The files beside a list that it names; its lines name the folder of whoever made it, too.

    Raises:
        ValueError: as :func:`lines_of_list`, and where one is not there.
    """
    found = [path.parent / Path(line).name for line in lines_of_list(path)]
    # a line may be a name that no file can have
    missing = [file.name[:60] for file in found if not os.path.exists(file)]
    if missing:
        raise InputError(f"{path} names {few(missing)}, which {'is' if len(missing) == 1 else 'are'} not in {path.parent}; get the list or the files anew")
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
