"""One run that is interrupted and goes on, held against one that nothing interrupted."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveal.lab.training import Recipe
from foveal.lab.training.checkpoint import read_newest

from .campaign import Trial
from .digest import differences, digest, strict_json
from .forks import Child, training

__all__ = ["Whole", "survives", "whole_run"]

YOURS = ("notes.txt", ".notes.2024", "report-of-mine/page.html", "checkpoints/keep-best/model.safetensors", "checkpoints/partial-notes/a.txt")
"""Files of the user's in the folder of a run, by names that are nearly ours."""
_LITTER = re.compile(r"\.(.+)\.\d+$|(partial|removed)-\d{8}-\d+$")


@dataclass(frozen=True)
class Whole:
    """What a run comes to that nothing interrupts."""

    recipe: Recipe
    digest: dict[str, str]
    events: list[str]
    """The changes of its folder, in their order."""
    seconds: float


def whole_run(recipe: Recipe, run: Path, environment: Mapping[str, str] | None = None) -> Whole:
    """Train in a process of its own."""
    import time

    started = time.monotonic()
    child = Child(training(recipe, run), run.with_suffix(".log"), environment)
    if child.wait() != 0:
        raise RuntimeError(f"{run} did not come to its end:\n{child.said()[-3000:]}")
    return Whole(recipe, digest(run), run.with_suffix(".events").read_text().split("\n"), time.monotonic() - started)


def survives(kind: str, what: str, whole: Whole, run: Path, interrupt: Callable[[Path], str], resume: Callable[[Path], str] | None = None) -> Trial:
    """Interrupt a run and let it go on.

    Args:
        kind: of what is done.
        what: more of it.
        whole: what it has to come to.
        run: its folder, with files of the user's in it.
        interrupt: starts it, and says what was wrong with how it ended; empty if nothing.
        resume: lets it go on, likewise; one process if None.
    """
    for name in YOURS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"mine: {name}")
    fault = interrupt(run)
    if not fault:
        fault = _left(whole.recipe, run)
    if not fault:
        fault = (resume or _resume(whole.recipe))(run)
    if not fault:
        fault = differences(digest(run), whole.digest) or _clean(run)
    return Trial(kind, what, fault)


def _resume(recipe: Recipe) -> Callable[[Path], str]:
    def resume(run: Path) -> str:
        child = Child(training(recipe, run), run.with_suffix(".log"))
        return "" if child.wait() == 0 else f"it did not go on, exit code {child.poll()}: {child.said()[-600:]}"

    return resume


def _left(recipe: Recipe, run: Path) -> str:
    """What was lost by the interruption; empty if nothing."""
    lost = [name for name in YOURS if not (run / name).is_file() or (run / name).read_text() != f"mine: {name}"]
    if lost:
        return f"files of the user's are gone: {lost}"
    for path in run.glob("*.json"):
        try:
            strict_json(path.read_bytes())
        except ValueError as error:
            return f"{path.name} is no JSON: {error}"
    newest = read_newest(run, recipe.to_dict())
    if newest is not None and newest[2]:
        return f"a checkpoint is damaged: {newest[2]}"
    return ""


def _clean(run: Path) -> str:
    """What is wrong with the folder of a run that ended; empty if nothing."""
    lost = [name for name in YOURS if not (run / name).is_file() or (run / name).read_text() != f"mine: {name}"]
    if lost:
        return f"files of the user's are gone: {lost}"
    litter = [path.name for folder in (run, run / "checkpoints") for path in folder.iterdir() if _LITTER.search(path.name) and path.name not in _names()]
    return f"left behind: {litter}" if litter else ""


def _names() -> set[str]:
    return {part for name in YOURS for part in name.split(os.sep)}
