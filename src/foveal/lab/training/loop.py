"""The training loop. It is ours so that it can be read; accelerate brings the device, the precision and the other processes.

Everything random in step n is drawn from a seed made of the recipe's seed and n. A run that was interrupted therefore continues as if it had not been.
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device

from ..._errors import InputError
from ..data import seed_of
from .checkpoint import latest_checkpoint, write_checkpoint
from .groups import rate
from .judging import Diverged, evaluate, loss_after, not_finite, scalars
from .opening import Run
from .phases import OpenPhase
from .pieces import Pieces, optimizer_by_name, whole_parts
from .progress import Progress
from .reading import to_json
from .speed import channels_last, matmul_precision
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
            seen += recipe.batch_size * sum(phase.phase.batches for phase in run.phases)
            progress.advance(run.window, seen / (time.perf_counter() - started))
            judging, saving = (done % every == 0 or done == recipe.steps for every in (recipe.eval_every, recipe.checkpoint_every))
            stopping = stopping_at.agreed(stop["asked"], done - first, judging or saving)
            looking = judging or saving or stopping
            if looking:
                run.settle_()
            if looking or run.batches.refreshes(done):
                # nothing is learned of the data from spoilt weights either
                _check(run, inputs, targets, done)
            if judging:
                run.gather_()
                entry = _judge(run, done, seen / (time.perf_counter() - started))
                progress.note(entry)
                for said in run.new_remarks(entry):
                    progress.remark(said)
                run.early.saw(entry, run.judged, accelerator.is_main_process)
                run.rest_()
            if saving or stopping or run.early.over:
                _save(run, done)
            if run.early.over:
                break
            if stopping and done < recipe.steps:
                accelerator.end_training()
                raise Interrupted(run.folder, done)


def _step(run: Run, step: int) -> tuple[Any, Any]:
    """One step of the optimizer; the last micro-batch."""
    recipe, accelerator = run.recipe, run.accelerator
    batches = run.batches.batches(step)
    if not run.model.training:
        # it walks through all modules, and only an evaluation or the task leaves this mode
        run.model.train()
    _seed(seed_of(recipe.seed, "step", step, accelerator.process_index), accelerator.device)
    batch: Any = None
    for phase in run.phases:
        phase.begin_(accelerator)
        phase.schedule_(step)
        for _ in range(phase.phase.steps * recipe.optim.accumulate):
            if phase.phase.batches:
                batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
                batch = channels_last(batch) if recipe.channels_last else batch
            with matmul_precision(recipe, accelerator.device):
                _micro_step(run, phase, *batch)
    if run.ema is not None:
        run.ema.update(run.model, step=step)
    return batch


def _micro_step(run: Run, phase: OpenPhase, inputs: Any, targets: Any) -> None:
    """One forward and backward pass, and behind the last of a batch a step of the phase's optimizer."""
    accelerator, clip = run.accelerator, phase.recipe.optim.clip_grad
    with accelerator.accumulate(phase.trained), accelerator.autocast():
        loss, reported = run.recipe.task.step(run.model, phase.trained, inputs, targets, run.bundle, **phase.named)
        accelerator.backward(loss)
        if accelerator.sync_gradients and clip is not None:
            accelerator.clip_grad_norm_(phase.own, clip)
        phase.optimizer.step()
        phase.optimizer.zero_grad()
    sums = {"loss": loss.detach() * len(targets), "seen": len(targets), **reported}
    if len(run.phases) > 1:
        # losses of phases add up, each a mean over its steps, and each sample of a step counts once
        shares = {name: phase.phase.steps * (len(run.phases) if name == "seen" else 1) for name in run.window}
        sums = {name: sums.get(name, 0.0) / share for name, share in shares.items()}
    run.window = {name: value + sums[name] for name, value in run.window.items()}


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
        networks = {"the weights": run.model} | ({} if run.ema is None else {"their average": run.judged})
        spoilt = [f"{name} of {of}" for of, net in networks.items() for name in not_finite(net)]
        if run.whole is not None:
            # each process has looked at its pieces, and all must come to the same end
            spoilt = gather_object(spoilt)
        if not spoilt:
            return
        what = f"{spoilt[0]} was not finite after step {step}"
    last = latest_checkpoint(run.folder)
    raise Diverged(
        f"{what}; lower --optim.lr (now {run.recipe.optim.lr}, {rate(run.phases[-1].optimizer):.3g} in this step) or raise --optim.warmup; "
        + (f"the last good checkpoint is kept: {last}" if last else "no checkpoint had been written")
    )


def _judge(run: Run, step: int, speed: float) -> dict[str, Any]:
    """A line of history.jsonl: the losses since the last, and the metrics of the validation split."""
    recipe, accelerator = run.recipe, run.accelerator
    totals, run.window = _sum(run.window, accelerator), run.empty
    entry = {
        "step": step,
        "lr": rate(run.phases[-1].optimizer),
        "train_loss": totals["loss"] / totals["seen"],
        **{f"train_{name}": totals[name] / totals["seen"] for name in recipe.task.train_metrics},
        "images_per_second": speed,
        **{f"val_{name}": value for name, value in scalars(evaluate(run.judged, run.bundle.val, recipe, run.bundle, accelerator)).items()},
        **recipe.task.watched(run.judged),
    }
    accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=step)
    if accelerator.is_main_process:
        with (run.folder / "history.jsonl").open("ab") as file:
            file.write(to_json(entry) + b"\n")
    return entry


def _save(run: Run, step: int) -> None:
    recipe, accelerator, folder = run.recipe, run.accelerator, run.folder
    totals = _sum(run.window, accelerator)
    # a sum of sums is rounded otherwise than the sums go on to be, so each process gets its own back
    shares = {"windows": gather_object([_of_one(run.window)])} if accelerator.num_processes > 1 else {}
    pieces = None if run.whole is None else _Saved(run)
    if accelerator.is_main_process:
        with nullcontext() if pieces is None else pieces.written.leading():
            if not (folder / "recipe.json").exists():
                raise InputError(f"{folder} is gone, or its recipe.json is; put it back from a copy and go on with: foveal train --resume {folder}")
            state: dict[str, Any] = {"window": totals, **shares, **run.batches.saved()}
            state |= {"phases": {phase.phase.name: phase.state() for phase in run.phases}} if pieces is None else pieces.state
            write_checkpoint(
                folder,
                step,
                weights=run.model.state_dict() if pieces is None else pieces.written,
                ema=None if run.ema is None else run.judged.state_dict(),
                state=state,
                recipe=recipe.to_dict(),
            )
    elif pieces is not None:
        pieces.written.follow()
    accelerator.wait_for_everyone()


def _of_one(window: dict[str, Any]) -> dict[str, float]:
    """The window of this process."""
    own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device="cpu") for value in window.values()])
    return dict(zip(window, own.tolist(), strict=True))


class _Saved:
    """What a checkpoint in pieces holds: those, and the state of the first process for all that is whole."""

    def __init__(self, run: Run) -> None:
        (phase,) = run.phases
        moments = optimizer_by_name(run.model, phase.optimizer)
        whole, small = whole_parts(run.model, moments)
        self.written = Pieces(run.model, moments)
        self.state = {"whole": whole, "phases": {phase.phase.name: {"optimizer": {"pieces": small}, "scaler": {}}}}


def _sum(window: dict[str, Any], accelerator: Accelerator) -> dict[str, float]:
    """The window of all processes."""
    own = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in window.values()])
    return dict(zip(window, accelerator.reduce(own, "sum").tolist(), strict=True))
