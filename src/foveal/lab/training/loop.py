"""The training loop. It is ours so that it can be read; accelerate brings the device, the precision and the other processes.

Everything random in step n is drawn from a seed made of the recipe's seed and n. A run that was interrupted therefore continues as if it had not been.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object, send_to_device
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..._errors import InputError
from ...attention import CrossSampleDictionary, fit_dictionaries_
from ...models import share_initial_weights_
from ..data import DataBundle, Split, seed_of
from .checkpoint import check_folder, latest_checkpoint, read_newest, read_weights, restore, write_checkpoint, write_weights
from .course import Course, Samples
from .early import Early
from .groups import grouped, hold, rate
from .judging import Diverged, evaluate, loss_after, not_finite, scalars
from .place import alone, refusals, sweep
from .progress import Progress
from .reading import Damaged, cut_history, read_json, read_object, to_json, write_json
from .recipe import Data, Recipe
from .resuming import restore_state
from .stopping import Stopping, signals

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
        ValueError: the folder is a file, or holds a run already, or one with another recipe; another process trains it; its checkpoints are damaged; the data
            cannot be used; the weights are no numbers any more; the operating system refuses (a full disk), or another process is gone.
        Interrupted: on Ctrl-C or SIGTERM, after saving.
    """
    check_folder(run)
    _check_new(run, resume)
    if json.loads(to_json(recipe.to_dict())) != recipe.to_dict():
        raise InputError("the recipe holds a number that is not finite, which no file can keep; give a finite one")
    if "tensorboard" in recipe.trackers and not _is_text(run):
        raise InputError(f"{run} has bytes that are no UTF-8, which TensorBoard cannot write to; choose another folder, or leave it out of --trackers")
    absent = set(recipe.trackers) - {str(tracker) for tracker in get_available_trackers()}
    if absent:
        raise InputError(f"tracker {', '.join(sorted(absent))} is not known or not installed; install its package, or leave it out of --trackers")
    with refusals(run):
        # accelerate keeps its settings per process; a second run in this one may want other precision
        AcceleratorState._reset_state()
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.optim.accumulate,
            log_with=list(recipe.trackers) or None,
            project_dir=run,
        )
        world = accelerator.num_processes
        if recipe.batch_size % (world * recipe.optim.accumulate):
            raise InputError(
                f"batch_size {recipe.batch_size} cannot be shared by {world} processes × {recipe.optim.accumulate} micro-batches; make it divisible"
            )
        with alone(run) if accelerator.is_main_process else nullcontext():
            if accelerator.is_main_process:
                # again, as another process may have begun and ended meanwhile
                _check_new(run, resume)
                sweep(run)
            return _fit(recipe, run, accelerator, quiet)


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_new(run: Path, resume: bool) -> None:
    if not resume and ((run / "recipe.json").exists() or latest_checkpoint(run)):
        raise InputError(f"{run} holds a run already; continue it with --resume {run}, or choose another folder")


def _fit(recipe: Recipe, run: Path, accelerator: Accelerator, quiet: bool) -> dict[str, Any]:
    rank = accelerator.process_index
    bundle = load_data(recipe.data)
    newest = read_newest(run, recipe.to_dict())
    if newest is not None:
        _check_classes(run, bundle)
    model = build_model(recipe, bundle)
    optimizer = _optimizer(model, recipe)
    schedule = _schedule(optimizer, recipe)
    first, notes = 0, list(bundle.notes)
    if newest is None:
        _fit_dictionaries(model, bundle.train, recipe, accelerator.device)
        notes += recipe.model.begin_(model, bundle.train, recipe.seed)
    else:
        checkpoint, saved, passed_over = newest
        first, notes = saved["step"], [*passed_over, *notes]
        restore(model, saved["weights"], checkpoint)
    if len(set(gather_object([first]))) > 1:
        raise Damaged(f"the processes read different checkpoints of {run}; look whether all see the same disk, and go on with: foveal train --resume {run}")
    ema = None
    if recipe.optim.ema is not None:
        ema = ModelEmaV3(model, decay=recipe.optim.ema, device=accelerator.device)
        if newest is not None:
            if saved["ema"] is None:
                raise Damaged(f"{checkpoint} has no ema.safetensors, which its recipe asks for; remove it to start from an older checkpoint or anew")
            restore(ema.module, saved["ema"], checkpoint)
    bare = recipe.task.trained(model)
    trained, optimizer = accelerator.prepare(_Trained(bare), optimizer)
    empty: dict[str, Any] = {"loss": 0.0, "seen": 0, **dict.fromkeys(recipe.task.running, 0.0)}
    window: dict[str, Any] = empty
    learned: dict[str, Tensor] = {}
    if newest is not None:
        # not before it is prepared, which would move what belongs on the host, such as AdamW's count of steps, to the device
        window, learned = restore_state(optimizer, accelerator, saved["state"], empty, checkpoint)

    if accelerator.is_main_process:
        write_json(run / "recipe.json", recipe.to_dict())
        if newest is None:
            write_json(run / "classes.json", list(bundle.classes))
        cut_history(run / "history.jsonl", first)
    accelerator.init_trackers("foveal", config=_flat(recipe.to_dict()))

    def save(step: int) -> None:
        totals = _sum(window, accelerator)
        if accelerator.is_main_process:
            if not (run / "recipe.json").exists():
                raise InputError(f"{run} is gone, or its recipe.json is; put it back from a copy and go on with: foveal train --resume {run}")
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

    def check(loss: float, step: int) -> None:
        """Stop before spoilt weights are evaluated, saved or published."""
        what = f"the loss became {loss} by step {step}"
        if math.isfinite(loss):
            spoilt = [f"{name} of {of}" for of, net in (("the weights", model), ("their average", judged)) for name in not_finite(net)]
            if not spoilt:
                return
            what = f"{spoilt[0]} was not finite after step {step}"
        last = latest_checkpoint(run)
        raise Diverged(
            f"{what}; lower --optim.lr (now {recipe.optim.lr}, {rate(optimizer):.3g} in this step) or raise --optim.warmup; "
            + (f"the last good checkpoint is kept: {last}" if last else "no checkpoint had been written")
        )

    course = Course(recipe, bundle, model, accelerator, run, learned)
    judged = model if ema is None else ema.module
    early = Early(recipe, run, first)
    last = first
    stopping_at = Stopping(accelerator)
    with signals() as stop, Progress(recipe, first, quiet or not accelerator.is_main_process, notes) as progress:
        started, seen = time.perf_counter(), 0
        for step in range(first, first if early.over else recipe.steps):
            batches = course.batches(step)
            model.train()
            torch.manual_seed(seed_of(recipe.seed, "step", step, rank))
            schedule.step_update(step)
            hold(optimizer, recipe, step)
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
            done = last = step + 1
            seen += recipe.batch_size
            progress.advance(window, seen / (time.perf_counter() - started))
            judging, saving = (done % every == 0 or done == recipe.steps for every in (recipe.eval_every, recipe.checkpoint_every))
            stopping = stopping_at.agreed(stop["asked"], done - first, judging or saving)
            if judging or saving or stopping:
                # the losses so far are of the weights before this step
                with accelerator.autocast():
                    after = loss_after(recipe, model, bare, inputs, targets, bundle)
                losses = _sum({"before": window["loss"], "after": after}, accelerator)
                check(losses["before"] + losses["after"], done)
            if judging:
                totals, window = _sum(window, accelerator), empty
                entry = {
                    "step": done,
                    "lr": rate(optimizer),
                    "train_loss": totals["loss"] / totals["seen"],
                    **{f"train_{name}": totals[name] / totals["seen"] for name in recipe.task.running},
                    "images_per_second": seen / (time.perf_counter() - started),
                    **{f"val_{name}": value for name, value in scalars(evaluate(judged, bundle.val, recipe, bundle, accelerator)).items()},
                }
                accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=done)
                if accelerator.is_main_process:
                    with (run / "history.jsonl").open("ab") as file:
                        file.write(to_json(entry) + b"\n")
                progress.note(entry)
                early.saw(entry, judged, accelerator.is_main_process)
            if saving or stopping or early.over:
                save(done)
            if early.over:
                break
            if stopping and done < recipe.steps:
                accelerator.end_training()
                raise Interrupted(run, done)

    accelerator.wait_for_everyone()
    early.take_best_(judged)
    spoilt = not_finite(judged)
    if spoilt:
        raise Diverged(f"{spoilt[0]} of the weights is not finite at step {recipe.steps}, so they are not published; train anew with a lower --optim.lr")
    metrics = evaluate(judged, bundle.test, recipe, bundle, accelerator)
    for name, probe in bundle.probes.items():
        metrics |= {f"{name}_{key}": value for key, value in scalars(evaluate(judged, probe, recipe, bundle, accelerator)).items()}
    parameters = sum(p.numel() for p in model.parameters())
    # where a set has no test of its own, its last number is one of validation, which is no test
    split = "val" if bundle.test is bundle.val else "test"
    result = {"split": split, "step": last, "parameters": parameters, "notes": [*bundle.notes, *early.notes(last)], **metrics}
    if accelerator.is_main_process:
        write_weights(run / "model.safetensors", judged.state_dict())
        write_json(run / "metrics.json", result)
    accelerator.end_training()
    return result


class _Trained(nn.Module):
    """What accelerate gets in the place of the network: it makes ``forward`` one of half precision, which evaluation must not meet."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.inner(*inputs, **options)


def load_run(run: Path) -> tuple[Recipe, DataBundle, Any]:
    """A finished run: its recipe, data and trained model in evaluation mode.

    Raises:
        ValueError: the folder is no run, the run has not finished, or its data have other classes than it was trained on.
    """
    if not (run / "recipe.json").exists():
        raise InputError(f"{run} is no run: it has no recipe.json")
    recipe = Recipe.from_dict(read_object(run / "recipe.json"))
    if not (run / "model.safetensors").exists():
        raise InputError(f"{run} has not finished; go on with: foveal train --resume {run}")
    bundle = load_data(recipe.data)
    _check_classes(run, bundle)
    model = build_model(recipe, bundle)
    weights = run / "model.safetensors"
    restore(model, read_weights(weights), weights)
    spoilt = not_finite(model)
    if spoilt:
        raise Diverged(f"{weights} holds weights that are no numbers: {spoilt[0]} and {len(spoilt) - 1} more; train again with a lower --optim.lr")
    return recipe, bundle, model.eval()


def _check_classes(run: Path, bundle: DataBundle) -> None:
    """As many classes of other names would fit the weights, and every answer would be wrong."""
    file = run / "classes.json"
    if not file.exists():  # a run of before they were written
        return
    trained, now = read_json(file), list(bundle.classes)
    if not isinstance(trained, list) or not all(isinstance(name, str) for name in trained):
        raise Damaged(f"{file} is damaged: expected a list of the names of classes, got {repr(trained)[:80]}; take it from a copy of the run")
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
    decayed = model.parameters() if optim.decay_all else grouped(model, recipe)
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


def _sum(window: dict[str, Any], accelerator: Accelerator) -> dict[str, float]:
    """The window of all processes."""
    own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in window.values()])
    return dict(zip(window, accelerator.reduce(own, "sum").tolist(), strict=True))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Trackers take plain values under plain names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return out
