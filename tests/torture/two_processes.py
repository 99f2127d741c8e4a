"""Trainings on two processes, as torchrun starts them: one or both are killed, or one is asked to stop."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from accelerate.state import PartialState

from foveal.lab.training import Recipe

from .campaign import Size, Trial, campaign, dice
from .digest import digest
from .forks import HUNG, Child, at_step, training
from .recipes import tiny_of
from .runs import Whole, survives, warm

__all__ = ["processes"]

TASKS = ("Classification", "AdversarialGeneration", "Diffusion")
LEAVE = 60.0
"""Seconds that the other process may take to see that one is gone; torchrun would end it."""


@campaign
def processes(work: Path, size: Size) -> Iterator[Trial]:
    """`torchrun --nproc-per-node 2 foveal train`, over gloo: a process killed, both killed, one inside a checkpoint, one asked to stop."""
    for task in TASKS[: size.of(len(TASKS), 1)]:
        recipe, place = tiny_of(task), work / task / "whole" / "run"
        warm(recipe, place.with_name("warm"))
        started = time.monotonic()
        codes = _both(recipe, place)
        if codes != [0, 0]:
            raise RuntimeError(f"two processes came to {codes}:\n{_said(place)[-3000:]}")
        events = place.with_suffix(".events").read_text().split("\n")
        whole = Whole(recipe, place, digest(place), events, time.monotonic() - started)
        for name, way in WAYS.items():
            for repeat in range(size.of(3 if task == "Classification" else 1, 0 if name != "one" else 1)):
                yield way(whole, task, work / task / f"{name}-{repeat}" / "run", repeat)


Acts = Sequence[tuple[int, Callable[[], object]]]


def _both(recipe: Recipe, run: Path, *, acts: tuple[Acts, Acts] = ((), ()), die_before: int | None = None) -> list[int]:
    """Exit codes of two processes; what torchrun does when one of them fails is done here: the other is asked to end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alike = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    children = []
    for rank in range(2):
        job = _rank(training(recipe, run, die_before=None if rank else die_before), acts[rank])
        children.append(Child(job, run.with_suffix(f".log{rank}"), alike | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
    end = time.monotonic() + LEAVE
    while any(child.poll() is None for child in children) and time.monotonic() < end:
        time.sleep(0.005)
    return [child.wait(0.1) for child in children]


def _rank(job: Callable[[], int], acts: Acts) -> Callable[[], int]:
    def alone() -> int:
        # this process was one of its own, and accelerate keeps that
        PartialState._reset_state()
        for step, act in acts:
            at_step(step, act)
        return job()

    return alone


def _said(run: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in (run.with_suffix(".log0"), run.with_suffix(".log1")) if path.exists())


def _dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _survives(kind: str, what: str, whole: Whole, run: Path, interrupt: Callable[[Path], str]) -> Trial:
    def resume(run: Path) -> str:
        codes = _both(whole.recipe, run)
        return "" if codes == [0, 0] else f"they did not go on: {codes}: {_said(run)[-600:]}"

    return survives(kind, what, whole, run, interrupt, resume)


def one_killed(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    step, rank = dice("one", task, repeat).randrange(1, whole.recipe.steps), repeat % 2

    def interrupt(run: Path) -> str:
        codes = _both(whole.recipe, run, acts=([(step, _dies)], ()) if rank == 0 else ((), [(step, _dies)]))
        if codes[rank] != -signal.SIGKILL or codes[1 - rank] not in (2,):
            return f"they ended with {['hung' if code == HUNG else code for code in codes]}: {_said(run)[-600:]}"
        lines = [line for line in _said(run).splitlines() if line.startswith("foveal: ")]
        good = len(lines) == 1 and "another process of this run is gone" in lines[0] and "Traceback" not in _said(run)
        return "" if good else f"expected one line, got {_said(run)[-600:]}"

    return _survives("one of two processes is killed", f"{task}, process {rank} in step {step}", whole, run, interrupt)


def both_killed(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    step = dice("both", task, repeat).randrange(1, whole.recipe.steps)

    def interrupt(run: Path) -> str:
        codes = _both(whole.recipe, run, acts=([(step, _dies)], [(step, _dies)]))
        return "" if -signal.SIGKILL in codes and HUNG not in codes else f"they ended with {codes}"

    return _survives("both of two processes are killed", f"{task}, in step {step}", whole, run, interrupt)


def killed_inside(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    events = [number for number, event in enumerate(whole.events, 1) if "checkpoints/" in event]
    event = dice("inside", task, repeat).choice(events)

    def interrupt(run: Path) -> str:
        codes = _both(whole.recipe, run, die_before=event)
        return "" if codes[0] == -signal.SIGKILL and codes[1] in (0, 2) else f"they ended with {codes}: {_said(run)[-600:]}"

    return _survives("the process that writes is killed inside a checkpoint", f"{task}, before event {event}", whole, run, interrupt)


def one_asked(whole: Whole, task: str, run: Path, repeat: int) -> Trial:
    step = dice("asked", task, repeat).randrange(1, whole.recipe.steps - 1)

    def interrupt(run: Path) -> str:
        codes = _both(whole.recipe, run, acts=((), [(step, lambda: os.kill(os.getpid(), signal.SIGTERM))]))
        # several ask each other now and then, so that the end may come first
        return "" if codes in ([130, 130], [0, 0]) else f"they ended with {codes}: {_said(run)[-600:]}"

    return _survives("one of two processes is asked to stop", f"{task}, process 1 in step {step}", whole, run, interrupt)


WAYS: dict[str, Callable[[Whole, str, Path, int], Trial]] = {"one": one_killed, "both": both_killed, "inside": killed_inside, "asked": one_asked}
