"""Running a study: every run leaves a JSON of its own, so that it can stop at any moment and go on with the same command."""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from ..._console import console as plain_console
from ..._errors import InputError
from ..._machine import cores
from ..compare.cluster import Cluster, RayPool, ray_pool
from ..compare.workers import Processes, as_interrupt, one_thread_each, start_worker
from ..training import Diverged, Interrupted, write_json
from ..training.checkpoint import check_folder
from ..training.place import refusals
from ..training.reading import read_object
from . import change, images, retrofit, single_layer, small_scenes, stereo  # noqa: F401  # each enters its kinds
from .judging import best_rate
from .kinds import KINDS
from .registration import Part, Registration
from .unit import Unit, read_unit

__all__ = ["chosen_rates", "count_units", "done_parts", "is_done", "run_study", "units"]

STUDY_FILE = "study.json"
"""Says which registration a folder is of."""


def run_study(study: Registration, folder: Path, *, jobs: int | None = None, quiet: bool = False, cluster: Cluster | None = None) -> None:
    """Do what is not done yet: the runs that choose rates, and then those that are judged.

    Args:
        study: what was registered, or some parts of it.
        folder: where it lives. If it holds runs of the same registration, they are kept.
        jobs: runs at a time, one thread each; one per core if None, one in all where there is an accelerator, and on a cluster as many as there is room for.
        quiet: show nothing.
        cluster: of Ray, whose machines do the runs.

    Raises:
        ValueError: the folder holds another study or the same under another registration, another process works in it, data or packages are missing, the
            cluster does not answer, or the operating system refuses.
        Interrupted: on Ctrl-C or SIGTERM.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    check_folder(folder)
    # what the workers of a cluster see is the whole path
    folder = folder if cluster is None else folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    console = plain_console(quiet=quiet, soft_wrap=True)
    with refusals(folder, "what is done is kept, re-run the same command to resume"), _alone(folder):
        _same(study, folder)
        started = time.monotonic()
        progress = _Progress(console, sum(count_units(study, part) for part in study.parts.values()), started)
        with _doing(jobs, folder, cluster, console) as do:
            # part by part: a study that is stopped has whole parts to show
            for part in study.parts.values():
                do(units(study, part, None), progress)
                do(units(study, part, chosen_rates(study, part, folder)), progress)


def units(study: Registration, part: Part, rates: dict[tuple[str, str], float] | None) -> list[Unit]:
    """The runs that choose rates, if None, or with the rates that were chosen those that are judged."""
    arms = study.arms_of(part)
    keys = [(setting, arm) for setting in part.settings for arm in arms]
    if rates is None:
        return [Unit(part, *key, arms[key[1]], rate, seed) for seed in part.tuning_seeds for key in keys for rate in part.rates]
    return [Unit(part, *key, arms[key[1]], rates[key], seed) for seed in part.seeds for key in keys]


def count_units(study: Registration, part: Part) -> int:
    """Runs of a part."""
    return len(part.settings) * len(study.arms_of(part)) * (len(part.tuning_seeds) * len(part.rates) + len(part.seeds))


def done_parts(study: Registration, folder: Path) -> Registration:
    """The registration with the parts alone all of whose runs lie in the folder.

    Raises:
        ValueError: the folder holds another study, or this one under another registration.
    """
    if not (folder / STUDY_FILE).exists():
        return study.of(())
    _check_same(study, folder)
    return study.of([name for name, part in study.parts.items() if is_done(study, part, folder)])


def is_done(study: Registration, part: Part, folder: Path) -> bool:
    """Whether all runs of a part are there, which is when it may be judged."""
    return all(unit.file(folder).exists() for unit in units(study, part, None)) and all(
        unit.file(folder).exists() for unit in units(study, part, chosen_rates(study, part, folder))
    )


def chosen_rates(study: Registration, part: Part, folder: Path) -> dict[tuple[str, str], float]:
    """The rate of every setting and arm."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    worst = -math.inf if part.larger_is_better else math.inf
    for unit in units(study, part, None):
        value = read_unit(unit, folder)["values"].get(KINDS[part.kind].tuned_by or part.metric)
        found.setdefault((unit.setting, unit.arm), {}).setdefault(unit.rate, []).append(worst if value is None else value)
    return {key: best_rate(tuning, part.larger_is_better) for key, tuning in found.items()}


def _run(unit: Unit, folder: Path) -> dict[str, float]:
    path, started = unit.file(folder), time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        values = KINDS[unit.part.kind].run(unit, folder)
    except Diverged:
        values = {}
    if not all(math.isfinite(value) for value in values.values()):
        values = {}
    write_json(path, {"values": values, "seconds": time.perf_counter() - started})
    return values


def _same(study: Registration, folder: Path) -> None:
    """One folder, one registration."""
    _check_same(study, folder)
    write_json(folder / STUDY_FILE, _identity(study))


def _check_same(study: Registration, folder: Path) -> None:
    path = folder / STUDY_FILE
    if path.exists() and (there := read_object(path)) != _identity(study):
        what = "a rehearsal" if there.get("smoke") else f"the study {there.get('study')} as registered under {str(there.get('registration'))[:12]}"
        raise InputError(f"{folder} holds {what}, and its runs are no part of this one ({study.digest[:12]}); choose another folder with --out, or remove it")


def _identity(study: Registration) -> dict[str, Any]:
    return {"study": study.name, "registration": study.digest, "smoke": study.smoke}


class _Progress:
    def __init__(self, console: Console, total: int, started: float) -> None:
        self._console, self._total, self._started = console, total, started
        self._done = self._fresh = 0

    def kept(self, count: int) -> None:
        self._done += count

    def finished(self, unit: Unit, values: dict[str, float]) -> None:
        self._done, self._fresh = self._done + 1, self._fresh + 1
        minutes = (time.monotonic() - self._started) / 60
        left = minutes / self._fresh * (self._total - self._done)
        value = values.get(unit.part.metric)
        said = "diverged" if value is None else f"{unit.part.metric} {value:.4f}"
        self._console.print(f"  {unit!s:<52} {said}   {self._done} of {self._total} after {minutes:.1f} min, about {left:.0f} min left")


Do = Callable[[Sequence[Unit], _Progress], None]


@contextmanager
def _doing(most: int | None, folder: Path, cluster: Cluster | None, console: Console) -> Any:
    """What does the runs that are not done yet: here, in processes side by side, or on a cluster."""
    jobs = most or (1 if torch.accelerator.is_available() else cores())

    def todo(wanted: Sequence[Unit], progress: _Progress) -> list[Unit]:
        left = [unit for unit in wanted if not unit.file(folder).exists()]
        progress.kept(len(wanted) - len(left))
        return left

    if jobs == 1 and cluster is None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)

        def here(wanted: Sequence[Unit], progress: _Progress) -> None:
            for unit in todo(wanted, progress):
                progress.finished(unit, _run(unit, folder))

        try:
            with as_interrupt():
                yield here
        except KeyboardInterrupt as error:
            raise Interrupted(folder, 0) from error
        finally:
            torch.set_num_threads(threads)
        return
    with ExitStack() as opened:
        pool: Processes | RayPool
        if cluster is None:
            opened.enter_context(one_thread_each())
            pool = opened.enter_context(Processes(jobs, get_context("spawn"), start_worker, (os.getpid(),)))
        else:
            pool = opened.enter_context(ray_pool(cluster, most, folder, console.print))

        def side_by_side(wanted: Sequence[Unit], progress: _Progress) -> None:
            futures = {pool.submit(_run, unit, folder): unit for unit in todo(wanted, progress)}
            _wait(pool, futures, progress, folder, jobs)

        yield side_by_side


def _wait(pool: Processes | RayPool, futures: dict[Future[dict[str, float]], Unit], progress: _Progress, folder: Path, jobs: int) -> None:
    with as_interrupt():
        try:
            for future in _finished(futures):
                progress.finished(futures[future], future.result())
        except (KeyboardInterrupt, Interrupted) as error:
            pool.stop(futures)
            wait(futures)
            raise Interrupted(folder, 0) from error
        except BrokenProcessPool as error:
            raise InputError(
                f"a process of the study was killed, perhaps for want of memory; go on with fewer --jobs (now {jobs}); what is done is kept"
            ) from error
        except BaseException:
            pool.stop(futures)
            raise


def _finished(futures: Iterable[Future[dict[str, float]]]) -> Iterable[Future[dict[str, float]]]:
    return as_completed(futures)


@contextmanager
def _alone(folder: Path) -> Any:
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"another study works in {folder}; wait for it, or choose another folder with --out") from None
