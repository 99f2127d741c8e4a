"""What was read out of thousands of files, kept as one file of arrays, so that the next start takes seconds."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._errors import InputError
from ..._files import check_folder, flush_folder
from ._fetch import cache_folder

__all__ = ["cached", "fingerprint"]

_VERSION = 1
"""To be raised when what is made of the same files changes."""

Arrays = dict[str, NDArray[Any]]


def fingerprint(sources: Sequence[Path], settings: Sequence[Any]) -> str:
    """A short hash of settings, and of the path, size and time of change of each file.

    The files are not read for it, which would take as long as a copy of the set: one that is changed and keeps size and time is not noticed.

    Raises:
        ValueError: a file is not there.
    """
    digest = hashlib.sha256(repr((_VERSION, *settings)).encode())
    for path in sources:
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}; get it anew, or take it out of the set's lists") from error
        digest.update(f"{os.path.abspath(path)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def cached(name: str, sources: Sequence[Path], settings: Sequence[Any], make: Callable[[], Arrays], *, folder: str = "clouds") -> Arrays:
    """Arrays out of ``FOLDER/NAME-FINGERPRINT.npz`` in the cache folder, made and put there whole where it is not there.

    Args:
        name: of the set and its part.
        sources: all files that decide the arrays.
        settings: all else that does.
        make: the arrays.
        folder: below the cache folder.

    Raises:
        ValueError: a source is not there; the cache is a file or cannot be written to, which is said before anything is made.
    """
    home = cache_folder() / folder
    path = home / f"{name}-{fingerprint(sources, settings)}.npz"
    # what is damaged is made anew: it is a copy of what the sources say
    with suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
    check_folder(home)
    arrays = make()
    home.mkdir(parents=True, exist_ok=True)
    partial = home / f".{path.name}.{os.getpid()}"
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(home)
    return arrays
