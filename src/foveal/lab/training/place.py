"""The folder of a run as a place that others use too: one process at a time, foreign files left alone, and words for what the operating system refuses."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..._errors import InputError
from ..._files import refused
from .pieces import SHARD

__all__ = ["alone", "go_on", "is_ours", "refusals", "remove_ours", "sweep"]

_CHECKPOINT_FILES = frozenset({"model.safetensors", "ema.safetensors", "state.pt", "checkpoint.json"})
_CHECKPOINT = re.compile(r"(step-\d{8}|(partial|removed)-\d{8}-\d+)")
_TEMPORARY = re.compile(
    r"\.(recipe\.json|classes\.json|history\.jsonl|metrics\.json|eval\.json|results(-[^.]+)?\.json|look\.json|diverged\.json|environments\.json|plan\.json"
    r"|costs\.json|memory\.json|resolution\.json|power\.json|command\.json|tuned\.json|settings\.json|looks\.json|report\.html|run\.html|summary\.md"
    r"|(model|unaveraged|best|samples|classifier)\.safetensors)\.(?P<process>\d+)"
)
"""What :func:`foveal._files.replace_file` calls a file of ours before it is whole."""
_LOST = ("gloo", "NCCL", "ProcessGroup", "Connection reset", "Connection closed", "Broken pipe")
"""Words of errors that say that another process is gone; gloo raises a plain RuntimeError."""


@contextmanager
def alone(run: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Two processes in one run would overwrite each other's checkpoints. The lock ends with its process, however that ends.

    Args:
        run: its folder, which is made.
        wait: seconds that another process may take to end.

    Raises:
        ValueError: another process trains this run.
    """
    new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    # one lock for a path in a process, so that who holds it may train
    lock = FileLock(run / ".lock", is_singleton=True)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise InputError(f"another process trains {run}; wait until it has ended, or choose another folder") from None
    try:
        yield
    finally:
        # of work that was refused before it began nothing stays
        if new and [path.name for path in _listed(run)] == [".lock"]:
            with suppress(OSError):
                (run / ".lock").unlink()
                run.rmdir()
        lock.release()


def go_on(run: Path) -> str:
    """What to say of a run that was left: how it goes on."""
    if (run / "recipe.json").is_file():
        return f"what was saved is kept; go on with: foveal train --resume {run}"
    return "nothing had been saved; start it again"


@contextmanager
def refusals(run: Path, remedy: str | None = None) -> Iterator[None]:
    """What the operating system refuses, and the loss of another process, as an error of one line; what is on disk is good, so the remedy is to go on.

    Args:
        run: the folder that is worked in.
        remedy: how work goes on afterwards; as :func:`go_on` says if None.

    Raises:
        ValueError: instead of an ``OSError``, and of those ``RuntimeError`` that are one in other clothes.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{refused(error, run)}; {remedy or go_on(run)}") from error
    except MemoryError as error:
        raise InputError(f"there is not enough memory: {_last_line(error)}; {remedy or go_on(run)}") from error
    except RuntimeError as error:
        said = _explained(error)
        if said is None:
            raise
        raise InputError(f"{said}; {remedy or go_on(run)}") from error


def remove_ours(folder: Path) -> None:
    """Remove a checkpoint of ours, or nothing: not what a link points to, nor a folder that holds anything else.

    It loses its name first, so that one which is half removed is never taken for a checkpoint.
    """
    if not is_ours(folder):
        return
    gone = folder.with_name(f"removed-{folder.name.split('-')[1]}-{os.getpid()}")
    if gone != folder:
        if is_ours(gone):
            shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def is_ours(folder: Path) -> bool:
    """Whether it is a checkpoint, or a part of one, that training wrote: by its name, and by what lies inside."""
    if not _CHECKPOINT.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    inside = list(folder.iterdir())
    named = (path.name in _CHECKPOINT_FILES or SHARD.fullmatch(path.name) for path in inside)
    plain = all(named) and all(path.is_file() and not path.is_symlink() for path in inside)
    return plain and (not folder.name.startswith("step-") or folder / "checkpoint.json" in inside)


def sweep(run: Path) -> None:
    """Remove what processes that were killed left half written; what a living process writes stays, and so does whatever is not ours."""
    for path in _listed(run):
        found = _TEMPORARY.fullmatch(path.name)
        if found and path.is_file() and not path.is_symlink() and _gone(int(found["process"])):
            path.unlink(missing_ok=True)
    for path in _listed(run / "checkpoints"):
        if not path.name.startswith("step-") and is_ours(path) and _gone(int(path.name.split("-")[2])):
            shutil.rmtree(path, ignore_errors=True)


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _gone(process: int) -> bool:
    # what bears our own number was left by one that had it before us: in a container numbers are the same each time
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _explained(error: RuntimeError) -> str | None:
    """What a RuntimeError of PyTorch's has to do with the system; None if nothing."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"the device has not enough memory ({_first_line(error)}); free it, or begin anew with a larger --optim.accumulate or a smaller --batch-size"
    if "No space left on device" in text or "unable to write to file" in text:
        return f"there is no room for what processes share ({_first_line(error)}); make room, or use --workers 0"
    if "DataLoader worker" in text:
        return f"a process that reads data is gone, perhaps for want of memory ({_first_line(error)}); use fewer --workers"
    if not torch.distributed.is_available():
        return None
    if isinstance(error, torch.distributed.DistError) or (torch.distributed.is_initialized() and any(word in text for word in _LOST)):
        return f"another process of this run is gone ({_first_line(error)}); see why, in its own words or the system's log"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
