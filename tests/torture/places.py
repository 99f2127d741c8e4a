"""Disks that are full, folders that cannot be written to or go away, a second process in the same folder, and a clock that is set while a run goes on."""

import os
import pwd
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from foveal.lab.data import ImageFolder
from foveal.lab.training import Recipe

from .campaign import Size, Trial, campaign, dice
from .forks import Child, training
from .recipes import tiny_of
from .runs import Whole, survives, whole_run

__all__ = ["places"]


@campaign
def places(work: Path, size: Size) -> Iterator[Trial]:
    """A full disk, a folder without the right to write, one that goes away, two processes in one, and another time of day; then the run goes on."""
    recipe = tiny_of("Classification")
    whole = whole_run(recipe, work / "whole" / "run")
    need = max(1, sum(path.stat().st_size for path in whole.run.rglob("*") if path.is_file()))
    for number in range(size.of(10, 1)):
        yield full_disk(whole, work / f"full-{number}" / "run", int(need * (0.15 + 0.09 * number)))
    for number in range(size.of(6, 0)):
        yield largest_file(whole, work / f"limit-{number}" / "run", dice("limit", number).randrange(1000, 60_000))
    for step in range(1, size.of(6, 2)):
        yield read_only(whole, work / f"sealed-{step}" / "run", step)
        if not size.short:
            yield moved_away(whole, work / f"moved-{step}" / "run", step)
    for step in range(1, size.of(5, 2)):
        yield second_process(whole, work / f"second-{step}" / "run", step)
    for number, hours in enumerate((-24 * 365, -1, 1, 24 * 365)[: size.of(4, 0)]):
        yield other_clock(whole, work / f"clock-{number}" / "run", hours)
    if not size.short:
        yield from data_go_away(work / "data")


def full_disk(whole: Whole, run: Path, bytes_: int) -> Trial:
    """A file system of so many bytes in memory; where none can be mounted, a limit on a file stands in for it."""
    what = f"of {bytes_:,} bytes"
    run.mkdir(parents=True)
    if not _mounted(run, bytes_):
        return largest_file(whole, run, bytes_ // 8)
    try:

        def interrupt(run: Path) -> str:
            child = Child(training(whole.recipe, run), run.with_suffix(".log"))
            child.wait()
            fault = child.refusal() or ("" if "the disk is full" in child.said() else f"it said {child.said()[-300:]}")
            subprocess.run(["mount", "-o", f"remount,size={64 << 20}", str(run)], check=True)
            return fault

        return survives("a full disk (a small tmpfs)", what, whole, run, interrupt)
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)


def _mounted(place: Path, bytes_: int) -> bool:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={bytes_}", "none", str(place)], capture_output=True, check=False) if os.getuid() == 0 else None
    return done is not None and done.returncode == 0


def largest_file(whole: Whole, run: Path, bytes_: int) -> Trial:
    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))
        return training(whole.recipe, run)()

    def interrupt(run: Path) -> str:
        child = Child(limited, run.with_suffix(".log"))
        return child.refusal() if child.wait() != 0 else ""

    return survives("a limit on the size of files (RLIMIT_FSIZE)", f"of {bytes_:,} bytes", whole, run, interrupt)


def read_only(whole: Whole, run: Path, step: int) -> Trial:
    """As somebody whom rights bind: root writes everywhere."""

    def interrupt(run: Path) -> str:
        nobody = pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else os.getuid()
        folders = [run, *(path for path in run.rglob("*") if path.is_dir())]

        def bound() -> int:
            os.setuid(nobody)
            return training(whole.recipe, run, steps=[(step, lambda: _seal(run, 0o555))])()

        for path in [*folders, *run.rglob("*")]:
            os.chown(path, nobody, -1)
        for name in (".log", ".events"):
            run.with_suffix(name).touch()
            os.chown(run.with_suffix(name), nobody, -1)
        child = Child(bound, run.with_suffix(".log"))
        child.wait()
        _seal(run, 0o755)
        return child.refusal() or ("" if "not allowed" in child.said() else f"it said {child.said()[-300:]}")

    return survives("the folder of a run loses the right to write", f"in step {step}", whole, run, interrupt)


def _seal(run: Path, mode: int) -> None:
    for folder in [run, *(path for path in run.rglob("*") if path.is_dir())]:
        if mode & 0o200 or os.stat(folder).st_uid == os.getuid():
            folder.chmod(mode)


def moved_away(whole: Whole, run: Path, step: int) -> Trial:
    away = run.with_name("away")

    def interrupt(run: Path) -> str:
        child = Child(training(whole.recipe, run, steps=[(step, lambda: run.rename(away))]), run.with_suffix(".log"))
        child.wait()
        if run.exists():
            shutil.rmtree(run)
        away.rename(run)
        return child.refusal() or ("" if "gone" in child.said() else f"it said {child.said()[-300:]}")

    return survives("the folder of a run goes away", f"in step {step}", whole, run, interrupt)


def second_process(whole: Whole, run: Path, step: int) -> Trial:
    """The first waits in a step until the second was told."""

    def interrupt(run: Path) -> str:
        go = run.with_suffix(".go")
        first = Child(training(whole.recipe, run, steps=[(step, lambda: _await(go))]), run.with_suffix(".log"))
        _await(run.with_suffix(".go-asked"))
        second = Child(training(whole.recipe, run), run.with_suffix(".log-second"))
        second.wait()
        go.touch()
        fault = second.refusal() or ("" if "another process trains" in second.said() else f"it said {second.said()[-300:]}")
        return fault or ("" if first.wait() == 0 else f"the first ended with {first.poll()}: {first.said()[-300:]}")

    return survives("a second process in the folder of a run", f"while the first is in step {step}", whole, run, interrupt)


def _await(path: Path, seconds: float = 60.0) -> None:
    path.with_suffix(f"{path.suffix}-asked").touch()
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.005)


def other_clock(whole: Whole, run: Path, hours: int) -> Trial:
    """The clock is set while the run goes on, and files are dated by the clock of before."""
    step = dice("clock", hours).randrange(1, whole.recipe.steps - 1)

    def set_clock() -> None:
        real = time.time
        time.time = lambda: real() + 3600 * hours
        for path in run.rglob("*"):
            os.utime(path, (real() - 3600 * hours,) * 2)

    def interrupt(run: Path) -> str:
        child = Child(training(whole.recipe, run, steps=[(step, set_clock), (step + 1, lambda: os.kill(os.getpid(), signal.SIGKILL))]), run.with_suffix(".log"))
        return "" if child.wait() == -signal.SIGKILL else f"it ended with {child.poll()}: {child.said()[-300:]}"

    def resume(run: Path) -> str:
        child = Child(training(whole.recipe, run, steps=[(1, set_clock)]), run.with_suffix(".log"))
        return "" if child.wait() == 0 else f"it did not go on: {child.said()[-300:]}"

    return survives(
        "the clock is set", f"by {hours:+,} hours, in step {step}, killed in the next, and set once more as it goes on", whole, run, interrupt, resume
    )


def data_go_away(work: Path) -> Iterator[Trial]:
    """The images of a run go away while it trains; they are put back and it goes on."""
    work.mkdir(parents=True)
    source = ImageFolder(root=Path("nowhere")).smoke_data()
    root = work / "images"
    shutil.copytree(source.root, root)  # type: ignore[attr-defined]
    from foveal.lab.recipes import get_recipe, smoke

    recipe = replace(smoke(get_recipe("image-folder"), batch_size=4), steps=6, eval_every=3, checkpoint_every=2)
    recipe = replace(recipe, data=replace(recipe.data, root=root))
    whole = whole_run(recipe, work / "whole" / "run")
    for step in (1, 3, 4):
        with _put_back(root):
            yield survives("the images of a run go away", f"in step {step}", whole, work / f"at-{step}" / "run", _without(recipe, root, step))


def _without(recipe: Recipe, root: Path, step: int) -> Callable[[Path], str]:
    away = root.with_name("away")

    def interrupt(run: Path) -> str:
        child = Child(training(recipe, run, steps=[(step, lambda: root.rename(away))]), run.with_suffix(".log"))
        child.wait()
        away.rename(root)
        return child.refusal() or ("" if str(root) in child.said() else f"it does not name them: {child.said()[-300:]}")

    return interrupt


@contextmanager
def _put_back(root: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if root.with_name("away").exists():
            root.with_name("away").rename(root)
