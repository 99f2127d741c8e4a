"""Trainings of every task that are killed or asked to stop, at any moment, and go on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .campaign import Size, Trial, campaign, dice
from .forks import HUNG, STOPPED_AT_ONCE, Child, training
from .recipes import TASKS, tiny_of
from .runs import Whole, survives, whole_run

__all__ = ["train"]

EACH = {"inside": 1, "outside": 1, "asked": 1}
"""Of every task, how often each way is tried."""
MORE = {
    # the one that takes half a second and keeps every kind of state, and both generators, whose steps have phases
    "Classification": {"inside": 30, "between": 12, "outside": 8, "asked": 8, "twice": 4},
    **{task: {"inside": 6, "between": 2, "outside": 2, "asked": 2, "twice": 1} for task in ("AdversarialGeneration", "Diffusion")},
}
SHORT = {"Classification": {"inside": 3, "between": 1, "outside": 1, "asked": 1, "twice": 1}}


@campaign
def train(work: Path, size: Size) -> Iterator[Trial]:
    """`foveal train` in one process: killed inside a checkpoint, between two, from outside at any time; asked to stop once and twice."""
    for task in SHORT if size.short else TASKS:
        counts = SHORT[task] if size.short else MORE.get(task, EACH)
        whole = whole_run(tiny_of(task), work / task / "whole" / "run")
        for number, (way, count) in enumerate(counts.items()):
            for repeat in range(count):
                yield WAYS[way](whole, task, work / task / f"{number}-{repeat}" / "run", repeat)


def killed_inside(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    return _before("SIGKILL inside a checkpoint", True, whole, task, run, repeat)


def killed_between(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    return _before("SIGKILL at another change of the folder", False, whole, task, run, repeat)


def _before(kind: str, inside: bool, whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    events = [number for number, event in enumerate(whole.events, 1) if ("checkpoints/" in event) == inside]
    event = dice(kind, task, repeat).choice(events)
    name = whole.events[event - 1]

    def interrupt(run: Path) -> str:
        code = Child(training(whole.recipe, run, die_before=event), run.with_suffix(".log")).wait()
        return "" if code == -signal.SIGKILL else f"it was to be killed before event {event} and ended with {code}"

    return survives(kind, f"{task}, before event {event} of {len(whole.events)}, {name}", whole, run, interrupt)


def killed_outside(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    """Twice in a row, the second time while it goes on."""
    shares = [dice("outside", task, repeat, turn).uniform(0.02, 0.98) for turn in range(2)]

    def interrupt(run: Path) -> str:
        for share in shares:
            child = Child(training(whole.recipe, run), run.with_suffix(".log"))
            time.sleep(share * whole.seconds)
            child.kill()
            if child.wait() not in (0, -signal.SIGKILL):
                return f"it ended with {child.poll()}: {child.said()[-300:]}"
        return ""

    return survives("SIGKILL from outside, twice", f"{task}, after {shares[0]:.0%} and {shares[1]:.0%} of its time", whole, run, interrupt)


def asked_to_stop(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    number = dice("asked", task, repeat).choice([signal.SIGTERM, signal.SIGINT])
    step = dice("at", task, repeat).randrange(1, whole.recipe.steps)

    def interrupt(run: Path) -> str:
        return _ends(whole, run, 130, step, lambda: os.kill(os.getpid(), number), saved=step)

    return survives(f"{number.name}", f"{task}, in step {step}", whole, run, interrupt)


def asked_twice(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    step = dice("twice", task, repeat).randrange(1, whole.recipe.steps)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    def interrupt(run: Path) -> str:
        return _ends(whole, run, STOPPED_AT_ONCE, step, twice)

    return survives("Ctrl-C twice", f"{task}, in step {step}", whole, run, interrupt)


def _ends(whole: Whole, run: Path, code: int, step: int, act: Callable[[], object], saved: int | None = None) -> str:
    child = Child(training(whole.recipe, run, steps=[(step, act)]), run.with_suffix(".log"))
    got = child.wait()
    if got != code:
        return f"it {'hung' if got == HUNG else f'ended with {got}'}, expected {code}: {child.said()[-300:]}"
    if saved is not None and not (run / "checkpoints" / f"step-{saved:08d}").is_dir():
        return f"step {saved} was not saved"
    return ""


WAYS: dict[str, Callable[[Whole, str, Path, int], Trial]] = {
    "inside": killed_inside,
    "between": killed_between,
    "outside": killed_outside,
    "asked": asked_to_stop,
    "twice": asked_twice,
}
