"""The training loop. It is ours so that it can be read; accelerate brings the device, the precision and the other processes.

Everything random in step n is drawn from a seed made of the recipe's seed and n. A run that was interrupted therefore continues as if it had not been.
"""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import send_to_device
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from .._errors import InputError
from .._param_groups import param_groups
from ..attention import CrossSampleDictionary, fit_dictionaries_
from ..data import DataBundle, Split, seed_of
from ..models import share_initial_weights_
from .checkpoint import check_folder, latest_checkpoint, read_checkpoint, read_weights, replace_file, restore, write_checkpoint, write_weights
from .course import Course, Samples
from .progress import Progress
from .recipe import Data, Recipe, read_json, write_json

__all__ = ["Interrupted", "build_model", "evaluate", "fit", "load_data", "load_run", "scalars"]


class Interrupted(Exception):
    """The run was asked to stop. It is saved and can go on."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped and saved at step {step}; go on with: foveal train --resume {run}")
        self.run, self.step = run, step

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[Path, int]]:
        # it travels between processes
        return Interrupted, (self.run, self.step)


@lru_cache(maxsize=2)
def load_data(data: Data) -> DataBundle:
    """The data set, loaded once in a process."""
    return data.load()


def build_model(recipe: Recipe, bundle: DataBundle) -> Any:
    """The recipe's model with the initial weights that its seed decides."""
    needs = recipe.task.needs(bundle)
    torch.manual_seed(recipe.seed)
    model = recipe.model.build(**needs)
    if recipe.share_initial_weights:
        torch.manual_seed(recipe.seed)
        share_initial_weights_(model, recipe.model.plain().build(**needs))
    return model


def fit(recipe: Recipe, run: Path, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train, and leave in ``run``: recipe.json, classes.json, history.jsonl, checkpoints, model.safetensors, metrics.json and what the trackers write.

    Args:
        recipe: what to do.
        run: a folder; new, unless ``resume``.
        resume: go on from the newest checkpoint. From none, start.
        quiet: no progress bar.

    Returns:
        The metrics of the test split, as in metrics.json.

    Raises:
        ValueError: the folder is a file, or holds a run already, or one with another recipe; a checkpoint is damaged; the data cannot be used.
        Interrupted: on Ctrl-C or SIGTERM, after saving.
    """
    check_folder(run)
    checkpoint = latest_checkpoint(run)
    if not resume and ((run / "recipe.json").exists() or checkpoint):
        raise InputError(f"{run} holds a run already; continue it with --resume {run}, or choose another folder")
    absent = set(recipe.trackers) - {str(tracker) for tracker in get_available_trackers()}
    if absent:
        raise InputError(f"tracker {', '.join(sorted(absent))} is not known or not installed; install its package, or leave it out of --trackers")
    # accelerate keeps its settings per process; a second run in this one may want other precision
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.optim.accumulate,
        log_with=list(recipe.trackers) or None,
        project_dir=run,
    )
    rank, world = accelerator.process_index, accelerator.num_processes
    if recipe.batch_size % (world * recipe.optim.accumulate):
        raise InputError(f"batch_size {recipe.batch_size} cannot be shared by {world} processes × {recipe.optim.accumulate} micro-batches; make it divisible")
    bundle = load_data(recipe.data)
    if checkpoint is not None:
        _check_classes(run, bundle)
    model = build_model(recipe, bundle)
    optimizer = _optimizer(model, recipe)
    schedule = _schedule(optimizer, recipe)
    first = 0
    state = None
    if checkpoint is None:
        _fit_dictionaries(model, bundle.train, recipe, accelerator.device)
    else:
        saved = read_checkpoint(checkpoint, recipe.to_dict())
        first, state = saved["step"], saved["state"]
        restore(model, saved["weights"], checkpoint)
        optimizer.load_state_dict(state["optimizer"])
    ema = None
    if recipe.optim.ema is not None:
        ema = ModelEmaV3(model, decay=recipe.optim.ema, device=accelerator.device)
        if checkpoint is not None:
            ema.module.load_state_dict(saved["ema"])
    trained, optimizer = accelerator.prepare(recipe.task.trained(model), optimizer)
    if state is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])

    if accelerator.is_main_process:
        write_json(run / "recipe.json", recipe.to_dict())
        if checkpoint is None:
            write_json(run / "classes.json", list(bundle.classes))
        _cut_history(run / "history.jsonl", first)
    accelerator.init_trackers("foveal", config=_flat(recipe.to_dict()))

    def save(step: int) -> None:
        totals = _sum(window, accelerator)
        _check_loss(totals["loss"], step, recipe)
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
            write_checkpoint(
                run,
                step,
                weights=model.state_dict(),
                ema=None if ema is None else ema.module.state_dict(),
                state={"optimizer": optimizer.state_dict(), "scaler": scaler, "window": totals, **course.saved()},
                recipe=recipe.to_dict(),
            )
        accelerator.wait_for_everyone()

    course = Course(recipe, bundle, model, accelerator, run, {} if state is None else state.get("task", {}))
    judged = model if ema is None else ema.module
    empty: dict[str, Any] = {"loss": 0.0, "seen": 0, **dict.fromkeys(recipe.task.running, 0.0)}
    with _signals() as stop, Progress(recipe, first, quiet or not accelerator.is_main_process, bundle.notes) as progress:
        started, seen = time.perf_counter(), 0
        # what the main process goes on with is of all processes already
        window = _named(state["window"], empty) if state is not None and accelerator.is_main_process else empty
        for step in range(first, recipe.steps):
            batches = course.batches(step)
            model.train()
            torch.manual_seed(seed_of(recipe.seed, "step", step, rank))
            schedule.step_update(step)
            for _ in range(recipe.optim.accumulate):
                inputs, targets = send_to_device(next(batches), accelerator.device, non_blocking=True)
                with accelerator.accumulate(trained), accelerator.autocast():
                    loss, running = recipe.task.step(model, trained, inputs, targets, bundle)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and recipe.optim.clip_grad is not None:
                        accelerator.clip_grad_norm_(trained.parameters(), recipe.optim.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
                sums = {"loss": loss.detach() * len(targets), "seen": len(targets), **running}
                window = {name: value + sums[name] for name, value in window.items()}
            if ema is not None:
                ema.update(model, step=step)
            done = step + 1
            seen += recipe.batch_size
            progress.advance(window, seen / (time.perf_counter() - started))
            if done % recipe.eval_every == 0 or done == recipe.steps:
                totals, window = _sum(window, accelerator), empty
                loss_mean = totals["loss"] / totals["seen"]
                _check_loss(loss_mean, done, recipe)
                entry = {
                    "step": done,
                    "lr": optimizer.param_groups[0]["lr"],
                    "train_loss": loss_mean,
                    **{f"train_{name}": totals[name] / totals["seen"] for name in recipe.task.running},
                    "images_per_second": seen / (time.perf_counter() - started),
                    **{f"val_{name}": value for name, value in scalars(evaluate(judged, bundle.val, recipe, bundle, accelerator)).items()},
                }
                accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=done)
                if accelerator.is_main_process:
                    with (run / "history.jsonl").open("a") as file:
                        file.write(json.dumps(entry) + "\n")
                progress.note(entry)
            stopping = _any(stop["asked"], accelerator)
            if done % recipe.checkpoint_every == 0 or done == recipe.steps or stopping:
                save(done)
            if stopping and done < recipe.steps:
                accelerator.end_training()
                raise Interrupted(run, done)

    metrics = evaluate(judged, bundle.test, recipe, bundle, accelerator)
    for name, probe in bundle.probes.items():
        metrics |= {f"{name}_{key}": value for key, value in scalars(evaluate(judged, probe, recipe, bundle, accelerator)).items()}
    parameters = sum(p.numel() for p in model.parameters())
    result = {"split": "test", "step": recipe.steps, "parameters": parameters, "notes": bundle.notes, **metrics}
    if accelerator.is_main_process:
        write_weights(run / "model.safetensors", judged.state_dict())
        write_json(run / "metrics.json", result)
    accelerator.end_training()
    return result


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, recipe: Recipe, bundle: DataBundle, accelerator: Accelerator | None = None, results: list[Any] | None = None
) -> dict[str, Any]:
    """Metrics of a split: numbers by name, and where a task has them ``per_class``. Each process takes its share, and all get the numbers of the whole.

    Args:
        model: the network.
        split: to be judged on.
        recipe: with the task.
        bundle: the data the split is of.
        accelerator: of several processes.
        results: a list that gets what this process predicted, as the task writes it.
    """
    task = recipe.task
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device = next(model.parameters()).device
    metrics = task.metrics(bundle).to(device)
    share: Subset[Any] = Subset(split, range(rank, len(split), world))  # type: ignore[arg-type]
    model.eval()
    for batch in DataLoader(share, batch_size=task.eval_batch_size, num_workers=recipe.workers, collate_fn=task.collate):
        inputs, targets = send_to_device(batch, device)
        outputs = task.predict(model, inputs)
        task.update(metrics, outputs, targets)
        if results is not None:
            results += task.results(outputs, targets, bundle)
    return task.summarise(metrics, bundle)


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The plain numbers among metrics, for tables, histories and trackers."""
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))}


def load_run(run: Path) -> tuple[Recipe, DataBundle, Any]:
    """A finished run: its recipe, data and trained model in evaluation mode.

    Raises:
        ValueError: the folder is no run, the run has not finished, or its data have other classes than it was trained on.
    """
    if not (run / "recipe.json").exists():
        raise InputError(f"{run} is no run: it has no recipe.json")
    recipe = Recipe.from_dict(read_json(run / "recipe.json"))
    if not (run / "model.safetensors").exists():
        raise InputError(f"{run} has not finished; go on with: foveal train --resume {run}")
    bundle = load_data(recipe.data)
    _check_classes(run, bundle)
    model = build_model(recipe, bundle)
    weights = run / "model.safetensors"
    restore(model, read_weights(weights), weights)
    return recipe, bundle, model.eval()


def _check_classes(run: Path, bundle: DataBundle) -> None:
    """As many classes of other names would fit the weights, and every answer would be wrong."""
    file = run / "classes.json"
    if not file.exists():  # a run of before they were written
        return
    trained, now = read_json(file), list(bundle.classes)
    if not isinstance(trained, list):
        raise InputError(f"{file} is damaged: expected a list of the names of classes, got {trained!r}; take it from a copy of the run")
    if trained != now:
        at = next((n for n, (old, new) in enumerate(zip(trained, now, strict=False)) if old != new), min(len(trained), len(now)))
        was, is_now = (f"{names[at]!r}" if at < len(names) else "none" for names in (trained, now))
        raise InputError(
            f"{run} was trained on {len(trained)} classes and its data have {len(now)} now, number {at} being {was} then and {is_now} now; "
            f"its data must have the classes that they had in training, which are in {file}"
        )


class _Images(Samples):
    """Inputs alone."""

    def __iter__(self) -> Iterator[Tensor]:
        return (images for images, _ in super().__iter__())


def _fit_dictionaries(model: nn.Module, split: Split, recipe: Recipe, device: torch.device) -> None:
    """Dictionaries of clusters are fitted to the whole training set before the first step. Every process does the same."""
    if any(isinstance(module, CrossSampleDictionary) and not module.fitted for module in model.modules()):
        fit_dictionaries_(model.to(device), _Images(split, recipe, device), seed=recipe.seed)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    optim = recipe.optim
    # timm calls the one without Nesterov's look ahead "momentum"
    sgd = {"opt": "sgd" if optim.nesterov else "momentum", "momentum": optim.momentum}
    own = sgd if optim.optimizer == "sgd" else {"opt": optim.optimizer, "betas": optim.betas}
    decayed = model.parameters() if optim.decay_all else param_groups(model, weight_decay=optim.weight_decay)
    # of parameters outside of groups
    return create_optimizer_v2(decayed, lr=optim.lr, weight_decay=optim.weight_decay, **own)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> Scheduler:
    optim, steps = recipe.optim, recipe.steps
    start = optim.min_lr if optim.warmup_lr is None else optim.warmup_lr
    common: dict[str, Any] = {"warmup_t": round(optim.warmup * steps), "warmup_lr_init": start, "t_in_epochs": False}
    if optim.schedule == "steps":
        # timm counts the step that is about to come, and by default from the end of the warm-up
        milestones = [round(share * steps) + 1 for share in optim.milestones]
        return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=optim.factor, warmup_prefix=False, **common)
    if optim.schedule == "poly":
        return PolyLRScheduler(optimizer, t_initial=steps, power=optim.power, lr_min=optim.min_lr, **common)
    return CosineLRScheduler(optimizer, t_initial=steps - round(optim.cooldown * steps), lr_min=optim.min_lr, **common)


def _named(window: dict[str, Any], empty: dict[str, Any]) -> dict[str, Any]:
    """A saved window; what is now called by the metric's name was once called ``correct``."""
    known = {"accuracy" if name == "correct" else name: value for name, value in window.items()}
    assert known.keys() == empty.keys(), f"a checkpoint's window holds {sorted(known)}, the task reports {sorted(empty)}"
    return {name: known[name] for name in empty}


def _check_loss(loss: float, step: int, recipe: Recipe) -> None:
    """Stop before spoilt weights are evaluated or saved."""
    if not math.isfinite(loss):
        raise InputError(f"the loss became {loss} by step {step}; lower --optim.lr (now {recipe.optim.lr}) or raise --optim.warmup")


@contextmanager
def _signals() -> Iterator[dict[str, bool]]:
    """Ctrl-C and SIGTERM ask the loop to stop after its step. A second Ctrl-C stops at once."""
    asked = {"asked": False}

    def ask(number: int, frame: Any) -> None:
        if asked["asked"] and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked["asked"] = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # only the main thread may listen to signals; in another the caller decides
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _any(flag: bool, accelerator: Accelerator) -> bool:
    """Whether any process says so: all must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())


def _sum(window: dict[str, Any], accelerator: Accelerator) -> dict[str, float]:
    """The window of all processes."""
    own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in window.values()])
    return dict(zip(window, accelerator.reduce(own, "sum").tolist(), strict=True))


def _cut_history(path: Path, step: int) -> None:
    """Forget what was written after the checkpoint that the run goes on from."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    replace_file(path, "".join(line + "\n" for line in kept).encode())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Trackers take plain values under plain names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return out
