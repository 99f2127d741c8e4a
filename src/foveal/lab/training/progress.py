"""What a training run shows while it runs."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..._console import console, plain
from ..tasks import PrimaryMetric
from .recipe import Recipe

__all__ = ["Progress"]

_REFRESH_SECONDS = 0.2


class Progress:
    """A bar with loss, what the task reports, images per second and time left, and a line per evaluation. Where there is no terminal, the lines alone."""

    def __init__(self, recipe: Recipe, first: int, quiet: bool, notes: list[str]) -> None:
        self._headline: PrimaryMetric = recipe.task.primary_metric
        # what a task reports in training is mostly a share, whatever its headline is
        self._train_metrics = recipe.task.train_metrics[:1]
        self._samples = f"{recipe.task.sample_name}s"
        self._form = ".1%" if recipe.task.train_shares else ".3f"
        shown = console(quiet=quiet, soft_wrap=True)
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[running]}{task.fields[speed]:.0f} {task.fields[samples]}/s"),
            TimeRemainingColumn(),
            console=shown,
            disable=quiet or not shown.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=recipe.steps, completed=first, loss=float("nan"), running="", speed=0.0, samples=self._samples)
        self._shown = 0.0
        for note in notes:
            shown.print(f"note: {plain(note)}")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, window: Mapping[str, Any], speed: float) -> None:
        self._bar.advance(self._task)
        # reading the loss waits for the device, so not at every step
        if time.monotonic() - self._shown > _REFRESH_SECONDS and not self._bar.disable:
            self._shown = time.monotonic()
            seen = max(window["seen"], 1)
            running = "".join(f"{name} {float(window[name]) / seen:{self._form}}  " for name in self._train_metrics)
            self._bar.update(self._task, loss=float(window["loss"]) / seen, running=running, speed=speed)

    def note(self, entry: Mapping[str, Any]) -> None:
        running = "".join(f"{name} {entry[f'train_{name}']:{self._form}}  " for name in self._train_metrics)
        judged = self._headline.show(entry[f"val_{self._headline.name}"])
        self._bar.console.print(
            f"step {entry['step']:>6}  loss {entry['train_loss']:.3f}  {running}validation {judged}  {entry['images_per_second']:.0f} {self._samples}/s"
        )

    def remark(self, said: str) -> None:
        self._bar.console.print(f"note: {plain(said)}")
