"""Comparisons and studies: who leads them is killed, a process of theirs is killed, they are asked to stop, and the same command goes on."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foveal.lab.compare import collect, make_plan, run_plan
from foveal.lab.compare.workers import open_server
from foveal.lab.study import collect as collect_study
from foveal.lab.study import run_study
from foveal.lab.training import Optim, write_json
from foveal.models import ViT
from tests.study.test_study import small
from tests.training.forker import watch
from tests.training.helpers import tiny

from .campaign import Size, Trial, campaign, dice
from .digest import differences, digest, strict_json
from .forks import HUNG, Child, ended, keep_server

__all__ = ["compare", "study"]


@dataclass(frozen=True)
class Work:
    """What is begun again and again until it is done."""

    name: str
    do: Callable[[Path], object]
    begin: Callable[[Path], object]
    """Puts into a new folder what need not be measured here."""
    digest: Callable[[Path], dict[str, str]]


PLAN = make_plan(tiny(model=ViT(), optim=Optim(lr=2e-2), steps=6, eval_every=3, checkpoint_every=2), ("denoising", "external"), seeds=1)


def _measured(folder: Path) -> None:
    for arm in PLAN.arms:
        write_json(folder / arm.name / "memory.json", {"bytes": 1})
    write_json(folder / "costs.json", {arm.name: {"parameters": 1, "macs": 1, "milliseconds_per_image": 1.0, "training_bytes": 1} for arm in PLAN.arms})


def _compared(folder: Path) -> dict[str, str]:
    found = {}
    for arm in PLAN.arms:
        run = folder / arm.name / "seed-0"
        found |= {f"{arm.name} {name}": value for name, value in digest(run).items()}
    # that its parts fit together
    collect(folder)
    return found


STUDY = small("S2")


def _studied(folder: Path) -> dict[str, str]:
    collect_study(STUDY, folder)
    files = [path for path in folder.rglob("*.json") if path.name != "study.json"]
    return {str(path.relative_to(folder)): repr(strict_json(path.read_bytes())["values"]) for path in files}


def _comparison(jobs: int) -> Work:
    return Work("compare", lambda folder: run_plan(PLAN, folder, jobs=jobs, quiet=True), _measured, _compared)


def _study(jobs: int) -> Work:
    return Work("study", lambda folder: run_study(STUDY, folder, jobs=jobs, quiet=True), lambda folder: None, _studied)


EVERY = ("before", "killed", "worker", "asked", "interrupted", "twice")


@campaign
def compare(work: Path, size: Size) -> Iterator[Trial]:
    """`foveal compare`, one and two runs at a time: who leads is killed, a process of a run is killed, SIGTERM, Ctrl-C and again Ctrl-C."""
    open_server()
    for jobs in (1, 2)[: size.of(2, 1)]:
        yield from _all(_comparison(jobs), f"{jobs} at a time", work / str(jobs), size.of(2, 0))
    if size.short:
        yield from _all(_comparison(1), "1 at a time", work / "short", 1, ("killed",))


@campaign
def study(work: Path, size: Size) -> Iterator[Trial]:
    """`foveal study`, one run at a time: killed before a change of its folder and from outside, SIGTERM, Ctrl-C."""
    yield from _all(_study(1), "1 at a time", work, size.of(5, 1), ("before",) if size.short else ("before", "killed", "asked", "interrupted"))


def _all(kind: Work, what: str, work: Path, times: int, ways: tuple[str, ...] = EVERY) -> Iterator[Trial]:
    if not times:
        return
    place = work / "whole" / kind.name
    started = time.monotonic()
    child = Child(_job(kind, place), place.with_suffix(".log"))
    if child.wait() != 0:
        raise RuntimeError(child.said()[-3000:])
    seconds = time.monotonic() - started
    want, events = kind.digest(place), place.with_suffix(".events").read_text().split("\n")
    for way in ways:
        for repeat in range(times):
            yield _tried(kind, way, what, work / f"{way}-{repeat}" / kind.name, seconds, events, want)


NAMES = {
    "before": "SIGKILL before a change of its folder",
    "killed": "SIGKILL from outside",
    "worker": "a process of a run is killed",
    "asked": "SIGTERM",
    "interrupted": "Ctrl-C",
    "twice": "Ctrl-C twice",
}


def _tried(kind: Work, way: str, what: str, folder: Path, seconds: float, events: list[str], want: dict[str, str]) -> Trial:
    rng = dice(kind.name, way, str(folder)[-40:])
    share, event = rng.uniform(0.05, 0.9), rng.randrange(1, len(events) + 1)
    after = share * seconds
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    trial = f"{what}, before event {event} of {len(events)}" if way == "before" else f"{what}, after {share:.0%} of its time"
    child = Child(
        _job(kind, folder, die_before=event if way == "before" else None, worker_after=after if way == "worker" else None), folder.with_suffix(".log")
    )
    if way in ("killed", "asked", "interrupted", "twice"):
        time.sleep(after)
        child.kill({"killed": signal.SIGKILL, "asked": signal.SIGTERM}.get(way, signal.SIGINT))
        if way == "twice":
            time.sleep(0.02)
            child.kill(signal.SIGINT)
    # a signal may come before anybody listens, or behind the end
    expected = {"before": {-signal.SIGKILL}, "killed": {-signal.SIGKILL, 0}, "worker": {2, 0}, "asked": {130, 0, -signal.SIGTERM}}.get(way, {130, 131, 0})
    code, fault = child.wait(), ""
    if code not in expected:
        fault = f"it {'hung' if code == HUNG else f'ended with {code}'}: {child.said()[-600:]}"
    elif code == 2:
        fault = child.refusal()
    if not fault:
        again = Child(_job(kind, folder), folder.with_suffix(".log2"))
        fault = "" if again.wait() == 0 else f"it did not go on, exit code {again.poll()}: {again.said()[-600:]}"
    if not fault:
        fault = differences(kind.digest(folder), want)
    if not fault and (folder / "notes.txt").read_text() != "mine":
        fault = "a file of the user's is gone"
    return Trial(NAMES[way], trial, fault)


def _job(kind: Work, folder: Path, *, die_before: int | None = None, worker_after: float | None = None) -> Callable[[], int]:
    def job() -> int:
        keep_server()
        if not folder.exists() or not any(path.name != "notes.txt" for path in folder.iterdir()):
            kind.begin(folder)
        events = watch(folder, die_before)
        if worker_after is not None:
            threading.Thread(target=_kill_one, args=(worker_after,), daemon=True).start()
        code = ended(lambda: kind.do(folder))
        folder.with_suffix(".events").write_text("\n".join(events))
        return code

    return job


def _kill_one(after: float) -> None:
    time.sleep(after)
    for child in multiprocessing.active_children()[:1]:
        os.kill(child.pid or 0, signal.SIGKILL)
