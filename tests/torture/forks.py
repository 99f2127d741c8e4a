"""Processes that are forked off this one, which has imported everything, so that one can be killed without paying for imports each time."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

from foveal import InputError
from foveal.lab.training import Interrupted, Recipe, fit, loop
from tests.training.forker import watch

__all__ = ["HUNG", "Child", "at_step", "ended", "keep_server", "training"]

HUNG = 1000
"""The end of a process that had to be killed as it came to none."""
STOPPED_AT_ONCE = 131
"""The end of one that was asked to stop twice."""


class Child:
    """A forked process that does one job; what it prints goes to a file.

    Args:
        job: gives its exit code.
        log: gets what it prints.
        environment: variables of its own.
        group: it leads a process group, as what a terminal starts does.
    """

    def __init__(self, job: Callable[[], int], log: Path, environment: Mapping[str, str] | None = None, *, group: bool = False) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self._code = log, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(job, log, environment or {}, group)

    def kill(self, number: int = signal.SIGKILL, *, group: bool = False) -> None:
        """A signal, to a process that may have ended."""
        if self.poll() is None:
            (os.killpg if group else os.kill)(self.pid, number)

    def poll(self) -> int | None:
        """How it ended, below 0 by which signal; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = 180.0) -> int:
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self._code = HUNG
                return HUNG
            time.sleep(0.003)
        return code

    def said(self) -> str:
        return self.log.read_text(encoding="utf8", errors="replace") if self.log.exists() else ""

    def refusal(self) -> str:
        """What is wrong with the one line that it should have ended with; empty if nothing."""
        lines = [line for line in self.said().splitlines() if line.startswith("foveal: ")]
        if self.poll() != 2:
            return f"it ended with {self.poll()}, expected 2: {self.said()[-300:]}"
        if len(lines) != 1 or "Traceback" in self.said():
            return f"expected one line, got {self.said()[-500:]!r}"
        return ""


def _live(job: Callable[[], int], log: Path, environment: Mapping[str, str], group: bool) -> None:
    code = 1
    try:
        if group:
            os.setpgid(0, 0)
        # what a shell starts in the background ignores it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(work: Callable[[], object]) -> int:
    """The exit code that the command line would have."""
    try:
        work()
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        return STOPPED_AT_ONCE
    except InputError as error:
        print(f"foveal: {error}", file=sys.stderr, flush=True)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def at_step(step: int, act: Callable[[], object]) -> None:
    """Do something in a step of this process, from inside: no race decides where."""
    real, seen = loop.Progress.advance, [0]

    def advance(self: loop.Progress, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        seen[0] += 1
        if seen[0] == step:
            act()

    loop.Progress.advance = advance  # type: ignore[method-assign, assignment]


def training(
    recipe: Recipe, run: Path, *, die_before: int | None = None, steps: Sequence[tuple[int, Callable[[], object]]] = (), quiet: bool = True
) -> Callable[[], int]:
    """A job that trains, or goes on; the changes that it made of its folder stand in ``RUN.events`` if it came to its end."""

    def job() -> int:
        events = watch(run, die_before)
        for step, act in steps:
            at_step(step, act)
        code = ended(lambda: fit(recipe, run, resume=True, quiet=quiet))
        run.with_suffix(".events").write_text("\n".join(events))
        return code

    return job


def keep_server() -> None:
    """The server that workers are forked off has imported everything and is our parent's child, which multiprocessing does not expect."""
    real, server = os.waitpid, forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        return (0, 0) if pid == server and server is not None else real(pid, options)

    os.waitpid = waitpid  # type: ignore[assignment]
