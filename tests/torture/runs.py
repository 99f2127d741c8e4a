"""One run that is interrupted and goes on, held against one that nothing interrupted."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from foveal.lab.training import Recipe, fit
from foveal.lab.training.checkpoint import read_newest

from .campaign import Trial
from .digest import differences, digest, strict_json
from .forks import Child, training

__all__ = ["Whole", "survives", "warm", "whole_run"]

YOURS = ("notes.txt", ".notes.2024", "report-of-mine/page.html", "checkpoints/keep-best/model.safetensors", "checkpoints/partial-notes/a.txt")
"""Files of the user's in the folder of a run, by names that are nearly ours."""
_LITTER = re.compile(r"\.(.+)\.\d+$|(partial|removed)-\d{8}-\d+$")


@dataclass(frozen=True)
class Whole:
    """What a run comes to that nothing interrupts."""

    recipe: Recipe
    run: Path
    digest: dict[str, str]
    events: list[str]
    """The changes of its folder, in their order; ``RUN`` stands for it."""
    seconds: float


_KNOWN: dict[str, Whole] = {}


def warm(recipe: Recipe, place: Path) -> None:
    """What is imported late is imported here, once, and data are loaded."""
    fit(replace(recipe, steps=1, workers=0), place, quiet=True)


def whole_run(recipe: Recipe, run: Path) -> Whole:
    """Train in a process of its own, once for all campaigns."""
    key = json.dumps(recipe.to_dict(), sort_keys=True)
    if key not in _KNOWN:
        warm(recipe, run.with_name("warm"))
        started = time.monotonic()
        child = Child(training(recipe, run), run.with_suffix(".log"))
        if child.wait() != 0:
            raise RuntimeError(f"{run} did not come to its end:\n{child.said()[-3000:]}")
        events = run.with_suffix(".events").read_text().replace(str(run), "RUN").split("\n")
        _KNOWN[key] = Whole(recipe, run, digest(run), events, time.monotonic() - started)
    return _KNOWN[key]


def survives(
    kind: str,
    what: str,
    whole: Whole,
    run: Path,
    interrupt: Callable[[Path], str],
    resume: Callable[[Path], str] | None = None,
    *,
    damaged: bool = False,
) -> Trial:
    """Interrupt a run and let it go on.

    Args:
        kind: of what is done.
        what: more of it.
        whole: what it has to come to.
        run: its folder, with files of the user's in it.
        interrupt: starts it, and says what was wrong with how it ended; empty if nothing.
        resume: lets it go on, likewise; one process if None.
        damaged: the newest checkpoint is damaged on purpose.
    """
    for name in YOURS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"mine: {name}")
    fault = interrupt(run) or _left(whole.recipe, run, damaged) or (resume or _resume(whole.recipe))(run)
    return Trial(kind, what, fault or differences(digest(run), whole.digest) or _lost(run) or _litter(run))


def _resume(recipe: Recipe) -> Callable[[Path], str]:
    def resume(run: Path) -> str:
        child = Child(training(recipe, run), run.with_suffix(".log"))
        return "" if child.wait() == 0 else f"it did not go on, exit code {child.poll()}: {child.said()[-600:]}"

    return resume


def _lost(run: Path) -> str:
    lost = [name for name in YOURS if not (run / name).is_file() or (run / name).read_text() != f"mine: {name}"]
    return f"files of the user's are gone: {lost}" if lost else ""


def _left(recipe: Recipe, run: Path, damaged: bool) -> str:
    """What an interruption spoilt; empty if nothing."""
    if lost := _lost(run):
        return lost
    for path in run.glob("*.json"):
        try:
            strict_json(path.read_bytes())
        except ValueError as error:
            return f"{path.name} is no JSON: {error}"
    newest = read_newest(run, recipe.to_dict())
    return f"a checkpoint is damaged: {newest[2]}" if newest is not None and newest[2] and not damaged else ""


def _litter(run: Path) -> str:
    yours = {part for name in YOURS for part in Path(name).parts}
    found = [path.name for folder in (run, run / "checkpoints") for path in folder.iterdir() if _LITTER.search(path.name) and path.name not in yours]
    return f"left behind: {found}" if found else ""
