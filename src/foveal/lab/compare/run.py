"""Running a plan: side by side, one thread each, and able to stop and go on at any moment."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from ..._console import console as plain_console
from ..._console import plain
from ..._errors import InputError
from ..._machine import cores, quiet_cuda
from ..training import Diverged, Interrupted, Recipe, build_model, fit, load_data, load_run, write_json
from ..training.checkpoint import check_folder, drop_checkpoints
from ..training.features import FEATURES
from ..training.models import UNAVERAGED, build_alike
from ..training.phases import trained_names
from ..training.place import alone, refusals, sweep
from ..training.reading import read_object
from . import workers
from ._diverged import DIVERGED, diverged_runs
from .cluster import Cluster, RayPool, ray_pool
from .costs import batch_to_measure, measure_costs, measure_memory
from .judging import judge
from .look import look
from .looks import Look, add_look, read_looks
from .plan import Plan, as_begun
from .power import power_lines
from .rates import rate_notes, with_rates_of
from .tuning import chosen_rates, tuning_jobs, tuning_notes, write_tuned
from .watch import Job, Watch

__all__ = ["run_plan"]

# here, because the workers import this module too
quiet_cuda()


def run_plan(plan: Plan, folder: Path, *, jobs: int | None = None, quiet: bool = False, cluster: Cluster | None = None) -> None:
    """Do what is not done yet: train and look at every arm with every seed, then measure what each arm costs.

    Leaves ``plan.json``, ``costs.json`` and, in ``ARM/seed-N``, a run with a ``look.json``; where rates are tuned ``tuned.json`` and runs in
    ``ARM/rate-R/seed-N``, and where results are looked at more than once ``looks.json``. What so many seeds can see is printed before anything is trained.

    Args:
        plan: the experiment.
        folder: where it lives. If it holds the same plan, it goes on; finished runs are kept.
        jobs: runs at a time, one thread each; one per core if None, one in all where there is an accelerator, and on a cluster as many as there is room for.
        quiet: show nothing.
        cluster: of Ray, whose machines train; the costs of attentions are measured on this machine in any case.

    Raises:
        ValueError: the data cannot be used, a rate by name is of nothing in any variant, the folder holds another plan, another process works in it, the
            cluster does not answer, or the operating system refuses.
        Interrupted: on Ctrl-C or SIGTERM, when all runs have saved.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    check_folder(folder)
    # what the workers of a cluster see is the whole path
    folder = folder if cluster is None else folder.resolve()
    if not (folder / "costs.json").exists():
        workers.open_server()
    # first of all, so that data which cannot be used is an error before anything is written
    bundle = load_data(plan.recipe.data)
    # and so is an arm that makes no model for such images, or a rate that is of nothing
    plan = with_rates_of(plan, {arm.name: trained_names(build_alike(plan.run_recipe(arm, 0), bundle), plan.recipe.task) for arm in plan.arms})
    folder.mkdir(parents=True, exist_ok=True)
    with refusals(folder, "what is done is kept, re-run the same command to resume"), _alone(folder), ExitStack() as joined:
        plan = as_begun(plan, folder)
        if (folder / "plan.json").exists() and Plan.from_dict(read_object(folder / "plan.json")) != plan:
            raise InputError(f"{folder} holds another comparison; choose another folder with --out, or remove {folder}")
        sweep(folder)
        foretold = power_lines(plan)
        if not (folder / "plan.json").exists():
            write_json(folder / "plan.json", plan.to_dict())
            write_json(folder / "power.json", {"lines": foretold})
        console = plain_console(quiet=quiet, soft_wrap=True)
        for note in (*bundle.notes, *rate_notes(plan)):
            console.print(f"note: {plain(note)}")
        for line in foretold:
            console.print(line)
        crew = _Crew(jobs or _default_jobs())
        if cluster is not None:
            crew = _Crew(crew.jobs, joined.enter_context(ray_pool(cluster, jobs, folder, console.print)), jobs)
        _tune(plan, folder, crew, console)
        for seeds in plan.looks or (len(plan.seeds),):
            _run_seeds(plan, folder, plan.seeds[:seeds], crew, console)
            if plan.looks and _settled(plan, folder, seeds, console):
                break
        for (name, seed), said in diverged_runs(plan, folder).items():
            console.print(f"{name} seed {seed} diverged and is left out of the report: {said}")
        if not (folder / "costs.json").exists():
            console.print("measuring what each attention costs")
            memory = {
                arm.name: read_object(_memory(folder, arm.name), ("bytes",), f"remove {_memory(folder, arm.name)}, and the same command measures it again")
                for arm in plan.arms
            }
            write_json(folder / "costs.json", measure_costs(plan, {name: int(values["bytes"]) for name, values in memory.items()}))


@dataclass(frozen=True)
class _Crew:
    """Who does the work."""

    jobs: int
    """Processes of this machine at a time."""
    ray: RayPool | None = None
    most: int | None = None
    """Runs that a cluster does at a time."""

    def __str__(self) -> str:
        if self.ray is None:
            return f"{self.jobs} at a time"
        return "as many at a time as the cluster takes" if self.most is None else f"{self.most} at a time"

    @contextmanager
    def pool(self, fresh: bool) -> Iterator[workers.Processes | RayPool]:
        """What takes tasks; memory is measured on this machine, as times are."""
        if self.ray is not None and not fresh:
            yield self.ray
            return
        with workers.one_thread_each(), workers.pool(self.jobs, fresh=fresh) as pool:
            yield pool


def _memory(folder: Path, name: str) -> Path:
    return folder / name / "memory.json"


def _tune(plan: Plan, folder: Path, crew: _Crew, console: Console) -> None:
    """Choose each variant's rate, before a run is judged."""
    if not plan.learning_rates or (folder / "tuned.json").exists():
        return
    todo = [job for job in tuning_jobs(plan, folder) if not any((job.run / name).exists() for name in ("metrics.json", DIVERGED))]
    console.print(f"{len(plan.arms)} attentions × {len(plan.learning_rates)} learning rates × 2 seeds that are not judged, {crew}; {len(todo)} to do")
    if todo:
        _side_by_side(folder, todo, [], crew, console)
    write_tuned(plan, folder)
    for note in tuning_notes(plan):
        console.print(f"note: {plain(note)}")
    for name, rate in chosen_rates(plan, folder).items():
        console.print(f"  {name:<28} learns at {rate:g}")


def _run_seeds(plan: Plan, folder: Path, seeds: Sequence[int], crew: _Crew, console: Console) -> None:
    """Train and look at every arm with these seeds."""
    rates = chosen_rates(plan, folder)
    every = [
        Job(f"{arm.name} seed {seed}", plan.run_recipe(arm, seed, rates.get(arm.name)), folder / arm.name / f"seed-{seed}")
        for seed in seeds
        for arm in plan.arms
    ]
    todo = [job for job in every if not any((job.run / name).exists() for name in ("look.json", DIVERGED))]
    unmeasured = [(plan.run_recipe(arm, 0), path) for arm in plan.arms if not (path := _memory(folder, arm.name)).exists()]
    if todo or unmeasured:
        shown = f"{len(plan.arms)} attentions × {len(seeds)} seeds"
        console.print(f"{len(every)} runs of {plan.recipe.steps} steps ({shown}), {crew}; {len(every) - len(todo)} are done")
        _side_by_side(folder, todo, unmeasured, crew, console)


def _settled(plan: Plan, folder: Path, seeds: int, console: Console) -> bool:
    """Whether the comparison ends at this look, which is written down the first time and stands."""
    known = [one for one in read_looks(plan, folder) if one.seeds == seeds]
    found = known[0] if known else Look.of(judge(plan, folder, seeds), seeds)
    if not known:
        add_look(folder, found)
    console.print(found.words(plan.recipe.task.primary_metric))
    return found.settled


def _side_by_side(folder: Path, todo: Sequence[Job], unmeasured: Sequence[tuple[Recipe, Path]], crew: _Crew, console: Console) -> None:
    runs: list[_Task] = [(partial(_train_and_look, job.recipe, job.run, job.looked_at, folder / FEATURES), job) for job in todo]
    _work(folder, runs, crew, console)
    # behind them, when nobody else is at work, and each in a process that has done nothing before
    steps: list[_Task] = [(partial(measure_memory, recipe, *batch_to_measure(recipe), path), None) for recipe, path in unmeasured]
    _work(folder, steps, crew, console, fresh=True)


_Task = tuple[Callable[[], str], Job | None]


def _work(folder: Path, tasks: Sequence[_Task], crew: _Crew, console: Console, *, fresh: bool = False) -> None:
    if not tasks:
        return
    with crew.pool(fresh) as pool:
        futures: dict[Future[Any], Job | None] = {pool.submit(task): job for task, job in tasks}
        stopping: Interrupted | None = None
        with workers.as_interrupt(), Watch(futures, console) as watch:
            try:
                for future in as_completed(futures):
                    watch.finished(futures[future], future.result())
            except (KeyboardInterrupt, Interrupted):
                stopping = Interrupted(folder, 0)
                console.print("stopping; the runs are being saved")
                pool.stop(futures)
                wait(futures)
            except BrokenProcessPool as error:
                raise InputError(
                    f"a process of the comparison was killed, perhaps for want of memory; go on with fewer --jobs (now {crew.jobs}); what is done is kept"
                ) from error
            except BaseException:
                pool.stop(futures)
                raise
    if stopping:
        raise stopping


_stopped = False
"""In a worker: it was told to stop, and starts nothing that was queued before."""


def _train_and_look(recipe: Recipe, run: Path, looked_at: bool = True, features: Path | None = None) -> str:
    global _stopped
    if _stopped:
        raise Interrupted(run, 0)
    # a worker whose parent was killed may still be ending its step here
    with alone(run, wait=2 * workers.LEAVE_SECONDS):
        try:
            metrics = fit(recipe, run, resume=True, quiet=True, features=features if recipe.model.brings_weights else None)
            if not looked_at:
                if recipe.model.brings_weights:
                    # it has chosen a rate, and is never opened again; a large network has many such runs
                    drop_checkpoints(run)
                    for name in ("model.safetensors", UNAVERAGED):
                        (run / name).unlink(missing_ok=True)
                return ""
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
            (run / UNAVERAGED).unlink(missing_ok=True)
    headline = recipe.task.primary_metric
    return f"{headline.label} {headline.show(metrics[headline.name])}"


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
