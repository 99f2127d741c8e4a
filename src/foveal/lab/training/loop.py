"""The training loop. It is ours so that it can be read; accelerate brings the device, the precision and the other processes.

Everything random in step n is drawn from a seed made of the recipe's seed and n. A run that was interrupted therefore continues as if it had not been.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from ..._errors import InputError
from ..data import seed_of
from .checkpoint import latest_checkpoint, write_checkpoint
from .groups import hold, rate
from .judging import Diverged, evaluate, loss_after, not_finite, scalars
from .opening import Run
from .progress import Progress
from .reading import to_json
from .stopping import Stopping, signals

__all__ = ["Interrupted", "train"]


class Interrupted(Exception):
    """The run was asked to stop. It is saved and can go on."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped and saved at step {step}; go on with: foveal train --resume {run}")
        self.run, self.step = run, step

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[Path, int]]:
        # it travels between processes
        return Interrupted, (self.run, self.step)


def train(run: Run, *, quiet: bool = False) -> None:
    """Every step that is left, with an evaluation and a checkpoint whenever they are due.

    Raises:
        ValueError: losses or weights that are no numbers any more.
        Interrupted: on Ctrl-C or SIGTERM, after saving.
    """
    recipe, accelerator, first = run.recipe, run.accelerator, run.first
    stopping_at = Stopping(accelerator)
    with signals() as stop, Progress(recipe, first, quiet or not accelerator.is_main_process, run.notes) as progress:
        started, seen = time.perf_counter(), 0
        for step in range(first, first if run.early.over else recipe.steps):
            inputs, targets = _step(run, step)
            done = run.last = step + 1
            seen += recipe.batch_size
            progress.advance(run.window, seen / (time.perf_counter() - started))
            judging, saving = (done % every == 0 or done == recipe.steps for every in (recipe.eval_every, recipe.checkpoint_every))
            stopping = stopping_at.agreed(stop["asked"], done - first, judging or saving)
            if judging or saving or stopping:
                _check(run, inputs, targets, done)
            if judging:
                entry = _judge(run, done, seen / (time.perf_counter() - started))
                progress.note(entry)
                run.early.saw(entry, run.judged, accelerator.is_main_process)
            if saving or stopping or run.early.over:
                _save(run, done)
            if run.early.over:
                break
            if stopping and done < recipe.steps:
                accelerator.end_training()
                raise Interrupted(run.folder, done)


def _step(run: Run, step: int) -> tuple[Any, Any]:
    """One step of the optimizer; the last micro-batch."""
    recipe, accelerator, optimizer = run.recipe, run.accelerator, run.optimizer
    batches = run.batches.batches(step)
    if not run.model.training:
        # it walks through all modules, and only an evaluation or the task leaves this mode
        run.model.train()
    _seed(seed_of(recipe.seed, "step", step, accelerator.process_index), accelerator.device)
    run.schedule.step_update(step)
    hold(optimizer, recipe, step)
    for _ in range(recipe.optim.accumulate):
        inputs, targets = send_to_device(next(batches), accelerator.device, non_blocking=True)
        with accelerator.accumulate(run.trained), accelerator.autocast():
            loss, reported = recipe.task.step(run.model, run.trained, inputs, targets, run.bundle)
            accelerator.backward(loss)
            if accelerator.sync_gradients and recipe.optim.clip_grad is not None:
                accelerator.clip_grad_norm_(run.parameters, recipe.optim.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
        sums = {"loss": loss.detach() * len(targets), "seen": len(targets), **reported}
        run.window = {name: value + sums[name] for name, value in run.window.items()}
    if run.ema is not None:
        run.ema.update(run.model, step=step)
    return inputs, targets


def _seed(seed: int, device: torch.device) -> None:
    if device.type == "cpu":
        # torch.manual_seed seeds accelerators too, and where there is none keeps the traceback of every call
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _check(run: Run, inputs: Any, targets: Any, step: int) -> None:
    """Stop before spoilt weights are evaluated, saved or published."""
    accelerator = run.accelerator
    # the losses so far are of the weights before this step
    with accelerator.autocast():
        after = loss_after(run.recipe, run.model, run.bare, inputs, targets, run.bundle)
    losses = _sum({"before": run.window["loss"], "after": after}, accelerator)
    loss = losses["before"] + losses["after"]
    what = f"the loss became {loss} by step {step}"
    if math.isfinite(loss):
        spoilt = [f"{name} of {of}" for of, net in (("the weights", run.model), ("their average", run.judged)) for name in not_finite(net)]
        if not spoilt:
            return
        what = f"{spoilt[0]} was not finite after step {step}"
    last = latest_checkpoint(run.folder)
    raise Diverged(
        f"{what}; lower --optim.lr (now {run.recipe.optim.lr}, {rate(run.optimizer):.3g} in this step) or raise --optim.warmup; "
        + (f"the last good checkpoint is kept: {last}" if last else "no checkpoint had been written")
    )


def _judge(run: Run, step: int, speed: float) -> dict[str, Any]:
    """A line of history.jsonl: the losses since the last, and the metrics of the validation split."""
    recipe, accelerator = run.recipe, run.accelerator
    totals, run.window = _sum(run.window, accelerator), run.empty
    entry = {
        "step": step,
        "lr": rate(run.optimizer),
        "train_loss": totals["loss"] / totals["seen"],
        **{f"train_{name}": totals[name] / totals["seen"] for name in recipe.task.train_metrics},
        "images_per_second": speed,
        **{f"val_{name}": value for name, value in scalars(evaluate(run.judged, run.bundle.val, recipe, run.bundle, accelerator)).items()},
    }
    accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=step)
    if accelerator.is_main_process:
        with (run.folder / "history.jsonl").open("ab") as file:
            file.write(to_json(entry) + b"\n")
    return entry


def _save(run: Run, step: int) -> None:
    recipe, accelerator, folder = run.recipe, run.accelerator, run.folder
    totals = _sum(run.window, accelerator)
    if accelerator.is_main_process:
        if not (folder / "recipe.json").exists():
            raise InputError(f"{folder} is gone, or its recipe.json is; put it back from a copy and go on with: foveal train --resume {folder}")
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        write_checkpoint(
            folder,
            step,
            weights=run.model.state_dict(),
            ema=None if run.ema is None else run.ema.module.state_dict(),
            state={"optimizer": run.optimizer.state_dict(), "scaler": scaler, "window": totals, **run.batches.saved()},
            recipe=recipe.to_dict(),
        )
    accelerator.wait_for_everyone()


def _sum(window: dict[str, Any], accelerator: Accelerator) -> dict[str, float]:
    """The window of all processes."""
    own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in window.values()])
    return dict(zip(window, accelerator.reduce(own, "sum").tolist(), strict=True))
