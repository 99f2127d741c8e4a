"""How far the runs of a comparison are, on a terminal."""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..training import Recipe
from ..training.reading import Damaged, read_history

__all__ = ["Job", "Watch"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One run to train."""

    name: str
    recipe: Recipe
    run: Path
    looked_at: bool = True
    """Whether the report shows what is inside; a run that only chooses a rate is not looked at."""


class Watch:
    """A line per run that goes, read from the histories that the runs write, and a line for each that ends."""

    def __init__(self, futures: Mapping[Future[Any], Job | None], console: Console) -> None:
        self._futures, self._console = futures, console
        self._started, self._done = time.monotonic(), 0
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=1 / _POLL_SECONDS, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Watch":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def finished(self, job: Job | None, result: str) -> None:
        if job:
            self._done += 1
            self._console.print(f"  {job.name:<28} {result}   {self._done} of {self._total} after {(time.monotonic() - self._started) / 60:.1f} min")

    @property
    def _total(self) -> int:
        return sum(job is not None for job in self._futures.values())

    def _render(self) -> Text:
        progress = [(job, self._last(job)) for future, job in self._futures.items() if job and not future.done()]
        going = [(job, entry) for job, entry in progress if entry]
        done = self._done + sum(entry["step"] / job.recipe.steps for job, entry in going)
        elapsed = time.monotonic() - self._started
        left = f"{elapsed * (self._total - done) / done / 60:.1f} min left" if done > 0 else "time left unknown yet"
        lines = [f"  {job.name:<28} step {entry['step']:>5} of {job.recipe.steps}   validation {self._shown(job, entry)}" for job, entry in going]
        return Text("\n".join([*lines, f"  {self._done} of {self._total} runs, {left}"]))

    @staticmethod
    def _shown(job: Job, entry: dict[str, Any]) -> str:
        headline = job.recipe.task.primary_metric
        return headline.show(entry[f"val_{headline.name}"])

    @staticmethod
    def _last(job: Job) -> dict[str, Any] | None:
        try:
            entries = read_history(job.run / "history.jsonl", (f"val_{job.recipe.task.primary_metric.name}",))
        except Damaged:
            # the run itself says so, and ends; this only looks on
            return None
        return entries[-1] if entries else None
