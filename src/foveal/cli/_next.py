"""What can be done with what a command left: commands that take it, in the order in which one wants them."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["after_comparison", "next_lines", "with_run"]


def next_lines(words: Iterable[str]) -> str:
    """Commands without their first word, below ``next:``; nothing where there are none."""
    commands = [f"  foveal {word}" for word in words]
    return "\n".join(["next:", *commands]) if commands else ""


def with_run(task: Any, run: str | Path, *, judged: bool = False) -> list[str]:
    """What takes a finished run of this task.

    Args:
        task: of the run.
        run: its folder.
        judged: whether ``eval`` was just here.
    """
    folder = shlex.quote(str(run))
    return [*([] if judged else [f"eval {folder}"]), *(command.format(run=folder) for command in task.next_commands)]


def after_comparison(results: dict[str, Any], task: Any, folder: Path) -> list[str]:
    """What takes the run of the deciding variant, and where it was not settled, how many seeds would have been enough, if that can be said."""
    if not results["comparisons"]:
        return []
    deciding, seed = results["comparisons"][0], results["plan"]["seeds"][0]
    words = with_run(task, folder / deciding["arm"] / f"seed-{seed}")
    seeds = deciding["seeds_to_settle"]
    if seeds is not None and seeds > len(results["plan"]["seeds"]):
        words.append(
            f"compare …    # the same words with --seeds {seeds} and another --out: so many would settle it in four cases of five, were it as it looks"
        )
    return words
