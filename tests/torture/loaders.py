"""Trainings whose data are read by processes of their own, which are killed, or outlive the one that they read for."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from .campaign import Size, Trial, campaign, dice
from .digest import differences
from .forks import HUNG, STOPPED_AT_ONCE, Child, training
from .recipes import tiny_of
from .runs import Whole, survives, whole_run

__all__ = ["workers"]

TIMES = 2
"""How often each way is tried of each task."""


@campaign
def workers(work: Path, size: Size) -> Iterator[Trial]:
    """`foveal train --workers 2`: a process that reads is killed, the one that trains is killed and leaves them behind, a terminal sends Ctrl-C to all."""
    for task in ("Classification",) if size.short else ("Classification", "Diffusion"):
        alone = whole_run(tiny_of(task), work / task / "alone" / "run")
        whole = whole_run(tiny_of(task, workers=2), work / task / "whole" / "run")
        of_both = [{name: value for name, value in one.digest.items() if name != "recipe.json"} for one in (whole, alone)]
        yield Trial("two processes that read change nothing", task, differences(*of_both))
        for name, way in WAYS.items():
            for repeat in range(size.of(TIMES, 1)):
                yield way(whole, task, work / task / f"{name}-{repeat}" / "run", repeat)


def reader_killed(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    step = dice("reader", task, repeat).randrange(1, whole.recipe.steps - 1)

    def kill_one() -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    def interrupt(run: Path) -> str:
        child = Child(training(whole.recipe, run, steps=[(step, kill_one)]), run.with_suffix(".log"))
        if child.wait() == 0:
            # it had read all that was left to read
            return ""
        return child.refusal() or ("" if "a process that reads data is gone" in child.said() else f"it said {child.said()[-300:]}")

    return survives("a process that reads is killed", f"{task}, in step {step}", whole, run, interrupt)


def parent_killed(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    """The run is taken up at once, while those who read may still be there."""
    step = dice("parent", task, repeat).randrange(1, whole.recipe.steps)

    def interrupt(run: Path) -> str:
        child = Child(training(whole.recipe, run, steps=[(step, lambda: os.kill(os.getpid(), signal.SIGKILL))]), run.with_suffix(".log"))
        return "" if child.wait() == -signal.SIGKILL else f"it ended with {child.poll()}"

    return survives("the process that trains is killed, with its readers alive", f"{task}, in step {step}", whole, run, interrupt)


def terminal(times: int) -> Callable[[Whole, str, Path, int], Trial]:
    def way(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
        step = dice("terminal", times, task, repeat).randrange(1, whole.recipe.steps)

        def press() -> None:
            for _ in range(times):
                os.killpg(0, signal.SIGINT)

        def interrupt(run: Path) -> str:
            child = Child(training(whole.recipe, run, steps=[(step, press)]), run.with_suffix(".log"), group=True)
            code, want = child.wait(), STOPPED_AT_ONCE if times == 2 else 130
            if code != want:
                return f"it {'hung' if code == HUNG else f'ended with {code}'}, expected {want}: {child.said()[-400:]}"
            return "" if "Traceback" not in child.said() else f"it showed a traceback: {child.said()[-600:]}"

        return survives(f"Ctrl-C {'twice ' * (times == 2)}at a terminal, to all processes", f"{task}, in step {step}", whole, run, interrupt)

    return way


WAYS: dict[str, Callable[[Whole, str, Path, int], Trial]] = {
    "reader": reader_killed,
    "parent": parent_killed,
    "once": terminal(1),
    "twice": terminal(2),
}
