"""Running a plan: side by side, one thread each, and able to stop and go on at any moment."""

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..._console import console as plain_console
from ..._console import plain
from ..._errors import InputError
from ..._machine import cores, quiet_cuda
from ...analysis import latency, peak_memory
from ..data import DataBundle, Split
from ..training import Diverged, Interrupted, Recipe, build_model, fit, load_data, load_run, write_json
from ..training.checkpoint import check_folder, drop_checkpoints
from ..training.features import FEATURES
from ..training.models import build_alike
from ..training.place import alone, refusals, sweep
from ..training.reading import Damaged, read_history, read_object
from ._diverged import DIVERGED, diverged_runs
from ._workers import LEAVE_SECONDS as _LEAVE_SECONDS
from ._workers import as_interrupt as _as_interrupt
from ._workers import one_thread_each as _one_thread_each
from ._workers import start_worker as _start_worker
from ._workers import stop_workers as _stop_workers
from .look import look
from .plan import Plan

__all__ = ["run_plan", "steps_for_minutes"]

# here, because the workers import this module too
quiet_cuda()

LATENCY_BATCH = 16
_POLL_SECONDS = 0.5


def run_plan(plan: Plan, folder: Path, *, jobs: int | None = None, quiet: bool = False) -> None:
    """Do what is not done yet: train and look at every arm with every seed, then measure what each arm costs.

    Leaves ``plan.json``, ``costs.json`` and, in ``ARM/seed-N``, a run with a ``look.json``.

    Args:
        plan: the experiment.
        folder: where it lives. If it holds the same plan, it goes on; finished runs are kept.
        jobs: runs at a time, one thread each; one per core if None, one in all where there is an accelerator.
        quiet: show nothing.

    Raises:
        ValueError: the data cannot be used, the folder holds another plan, another process works in it, or the operating system refuses.
        Interrupted: on Ctrl-C or SIGTERM, when all runs have saved.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    check_folder(folder)
    # first of all, so that data which cannot be used is an error before anything is written
    bundle = load_data(plan.recipe.data)
    for arm in plan.arms:
        # and so is an arm that makes no model for such images
        build_alike(plan.run_recipe(arm, 0), bundle)
    folder.mkdir(parents=True, exist_ok=True)
    with refusals(folder, "what is done is kept, re-run the same command to resume"), _alone(folder):
        if (folder / "plan.json").exists() and Plan.from_dict(read_object(folder / "plan.json")) != plan:
            raise InputError(f"{folder} holds another comparison; choose another folder with --out, or remove {folder}")
        sweep(folder)
        write_json(folder / "plan.json", plan.to_dict())
        runs = {(arm.name, seed): folder / arm.name / f"seed-{seed}" for seed in plan.seeds for arm in plan.arms}
        todo = [key for key, run in runs.items() if not any((run / name).exists() for name in ("look.json", DIVERGED))]
        memories = {arm.name: folder / arm.name / "memory.json" for arm in plan.arms}
        console = plain_console(quiet=quiet, soft_wrap=True)
        for note in bundle.notes:
            console.print(f"note: {plain(note)}")
        if todo or not all(path.exists() for path in memories.values()):
            _side_by_side(plan, folder, todo, [name for name, path in memories.items() if not path.exists()], jobs or _default_jobs(), console)
        for (name, seed), said in diverged_runs(plan, folder).items():
            console.print(f"{name} seed {seed} diverged and is left out of the report: {said}")
        if not (folder / "costs.json").exists():
            console.print("measuring what each attention costs")
            memory = {name: read_object(path, ("bytes",), f"remove {path}, and the same command measures it again") for name, path in memories.items()}
            write_json(folder / "costs.json", _costs(plan, {name: int(values["bytes"]) for name, values in memory.items()}))


def steps_for_minutes(recipe: Recipe, plan: Plan, minutes: float) -> int:
    """Steps that the most expensive variant takes in that time, a tenth kept for evaluation; rounded, so that small noise does not show.

    Measured on the device that trains, in the recipe's precision: the accelerator where there is one, otherwise one thread of the processor.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"minutes-per-run must be above 0 and finite, got {minutes}")
    bundle = load_data(recipe.data)
    macs = {arm.name: recipe.task.cost(build_model(plan.run_recipe(arm, 0), bundle), bundle).macs for arm in plan.arms}
    dearest = max(plan.arms, key=lambda arm: macs[arm.name])
    step = _prepare_step(plan.run_recipe(dearest, 0), bundle, _batch(recipe, bundle.train, recipe.batch_size), _device())
    seconds = latency({"step": step}, rounds=3)["step"]
    steps = 0.9 * 60 * minutes / seconds
    return max(10, round(steps / 10) * 10)


def _side_by_side(plan: Plan, folder: Path, todo: list[tuple[str, int]], unmeasured: list[str], jobs: int, console: Console) -> None:
    arms = {arm.name: arm for arm in plan.arms}
    total = len(plan.arms) * len(plan.seeds)
    console.print(
        f"{total} runs of {plan.recipe.steps} steps ({len(plan.arms)} attentions × {len(plan.seeds)} seeds), {jobs} at a time; {total - len(todo)} are done"
    )
    with _one_thread_each(), ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (os.getpid(),)) as pool:
        futures: dict[Future[Any], str] = {}
        for name, seed in todo:
            recipe = plan.run_recipe(arms[name], seed)
            futures[pool.submit(_train_and_look, recipe, folder / name / f"seed-{seed}")] = f"{name} seed {seed}"
        for name in unmeasured:
            futures[pool.submit(_measure_memory, plan.run_recipe(arms[name], 0), folder / name / "memory.json")] = ""
        stopping: Interrupted | None = None
        with _as_interrupt(), _Watch(plan, folder, futures, console) as watch:
            try:
                for future in as_completed(futures):
                    watch.finished(futures[future], future.result())
            except (KeyboardInterrupt, Interrupted):
                stopping = Interrupted(folder, 0)
                console.print("stopping; the runs are being saved")
                _stop_workers(pool, futures)
            except BrokenProcessPool as error:
                raise InputError(
                    f"a process of the comparison was killed, perhaps for want of memory; go on with fewer --jobs (now {jobs}); what is done is kept"
                ) from error
            except BaseException:
                _stop_workers(pool, futures)
                raise
    if stopping:
        raise stopping


_stopped = False
"""In a worker: it was told to stop, and starts nothing that was queued before."""


def _train_and_look(recipe: Recipe, run: Path) -> str:
    global _stopped
    if _stopped:
        raise Interrupted(run, 0)
    # a worker whose parent was killed may still be ending its step here
    with alone(run, wait=2 * _LEAVE_SECONDS):
        try:
            metrics = fit(recipe, run, resume=True, quiet=True, features=run.parent.parent / FEATURES if recipe.model.brings_weights else None)
            recipe, bundle, model = load_run(run)
        except Interrupted:
            _stopped = True
            raise
        except Diverged as error:
            # an outcome of the comparison; the others go on
            write_json(run / DIVERGED, {"message": str(error)})
            return "diverged"
        write_json(run / "look.json", look(recipe, model, build_model(recipe, bundle), bundle))
        if recipe.model.brings_weights:
            # it is never gone on with, and checkpoints of large networks fill disks
            drop_checkpoints(run)
    headline = recipe.task.headline
    return f"{headline.label} {headline.show(metrics[headline.name])}"


def _measure_memory(recipe: Recipe, path: Path) -> str:
    if _stopped:
        raise Interrupted(path.parent, 0)
    bundle = load_data(recipe.data)
    batch = _batch(recipe, bundle.train, recipe.batch_size)
    write_json(path, {"bytes": _device_memory(recipe, bundle, batch) or peak_memory(_prepare_step, recipe, bundle.described(), batch)})
    return ""


def _batch(recipe: Recipe, split: Split, size: int) -> tuple[Any, Any]:
    """The first samples, over again where there are few."""
    return recipe.task.collate([split[i % len(split)] for i in range(size)])


def _device() -> torch.device:
    """The one that runs train on."""
    return torch.accelerator.current_accelerator() or torch.device("cpu") if torch.accelerator.is_available() else torch.device("cpu")


def _prepare_step(recipe: Recipe, bundle: DataBundle, batch: tuple[Any, Any], device: torch.device | str = "cpu") -> Callable[[], None]:
    device = torch.device(device)
    model = build_model(recipe, bundle).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs, targets = send_to_device(batch, device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)

    def step() -> None:
        with torch.autocast(device.type, half, enabled=half is not None):
            loss, _ = recipe.task.step(model, model, inputs, targets, bundle)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)

    return step


def _wait(device: torch.device) -> None:
    # work on an accelerator goes on behind the call that asked for it
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _device_memory(recipe: Recipe, bundle: DataBundle, batch: tuple[Any, Any]) -> int | None:
    """Bytes on a CUDA device that a training step takes at its peak beyond the model and its batch; None where runs train elsewhere."""
    device = _device()
    if device.type != "cuda":
        return None
    step = _prepare_step(recipe, bundle, batch, device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before


def _costs(plan: Plan, memory: dict[str, int]) -> dict[str, Any]:
    bundle, task, device = load_data(plan.recipe.data), plan.recipe.task, _device()
    models = {arm.name: build_alike(plan.run_recipe(arm, 0), bundle).eval() for arm in plan.arms}
    counted = {name: task.cost(model, bundle) for name, model in models.items()}
    models = {name: model.to(device) for name, model in models.items()}
    inputs = send_to_device(_batch(plan.recipe, bundle.test, LATENCY_BATCH)[0], device)

    def forward(model: torch.nn.Module) -> Callable[[], None]:
        def call() -> None:
            with torch.no_grad():
                task.predict(model, inputs)
            _wait(device)

        return call

    seconds = latency({name: forward(model) for name, model in models.items()})
    return {
        name: {
            "parameters": counted[name].parameters,
            "macs": counted[name].macs,
            "milliseconds_per_image": 1e3 * seconds[name] / LATENCY_BATCH,
            "training_bytes": memory[name],
            "device": device.type,
        }
        for name in models
    }


def _default_jobs() -> int:
    return 1 if torch.accelerator.is_available() else cores()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two comparisons in one folder would overwrite each other's runs. The lock ends with the process, however it ends."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"another comparison works in {folder}; wait for it, or choose another folder with --out") from None


class _Watch:
    """A line per run that goes, read from the histories that the runs write, and a line for each that ends."""

    def __init__(self, plan: Plan, folder: Path, futures: dict[Future[Any], str], console: Console) -> None:
        self._plan, self._folder, self._futures, self._console = plan, folder, futures, console
        self._started, self._done = time.monotonic(), 0
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=1 / _POLL_SECONDS, transient=True) if console.is_terminal else None

    def __enter__(self) -> "_Watch":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def finished(self, name: str, result: str) -> None:
        if name:
            self._done += 1
            self._console.print(f"  {name:<28} {result}   {self._done} of {self._total} after {(time.monotonic() - self._started) / 60:.1f} min")

    @property
    def _total(self) -> int:
        return sum(bool(name) for name in self._futures.values())

    def _render(self) -> Text:
        steps, headline = self._plan.recipe.steps, self._plan.recipe.task.headline
        progress = {name: self._last(name) for future, name in self._futures.items() if name and not future.done()}
        going = {name: entry for name, entry in progress.items() if entry}
        done = self._done + sum(entry["step"] / steps for entry in going.values())
        elapsed = time.monotonic() - self._started
        left = f"{elapsed * (self._total - done) / done / 60:.1f} min left" if done > 0 else "time left unknown yet"
        judged = {name: headline.show(entry[f"val_{headline.name}"]) for name, entry in going.items()}
        lines = [f"  {name:<28} step {entry['step']:>5} of {steps}   validation {judged[name]}" for name, entry in going.items()]
        return Text("\n".join([*lines, f"  {self._done} of {self._total} runs, {left}"]))

    def _last(self, name: str) -> dict[str, Any] | None:
        arm, _, seed = name.partition(" seed ")
        path = self._folder / arm / f"seed-{seed}" / "history.jsonl"
        try:
            entries = read_history(path, (f"val_{self._plan.recipe.task.headline.name}",))
        except Damaged:
            # the run itself says so, and ends; this only looks on
            return None
        return entries[-1] if entries else None
