"""Weights that become no numbers, and checkpoints that were damaged: the last good one is kept, and training goes on from it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foveal.lab.training import latest_checkpoint, opening
from foveal.lab.training.checkpoint import read_checkpoint

from .campaign import Size, Trial, campaign, dice
from .damage import DAMAGES
from .forks import Child, training
from .recipes import TASKS, tiny_of
from .runs import Whole, survives, whole_run

__all__ = ["checkpoints", "divergence"]


@campaign
def divergence(work: Path, size: Size) -> Iterator[Trial]:
    """Weights that become NaN or infinite, of every task: it stops with step, rate and the last good checkpoint, publishes nothing, and goes on from there."""
    for task in ("Classification",) if size.short else TASKS:
        whole = whole_run(tiny_of(task), work / task / "whole" / "run")
        for value in (float("nan"), float("inf"))[: 2 if task == "Classification" and not size.short else 1]:
            yield spoilt(whole, task, work / task / str(value) / "run", value)
        yield too_fast(whole, task, work / task / "fast" / "run")


def spoilt(whole: Whole, task: str, run: Path, value: float) -> Trial:
    step = dice("spoilt", task, value).choice([3, 4, 5])
    good = (step - 1) // 2 * 2

    def interrupt(run: Path) -> str:
        seen: list[Any] = []
        real = opening.build_model

        def build(*arguments: Any) -> Any:
            seen.append(real(*arguments))
            return seen[-1]

        def spoil() -> None:
            parameters = [one for one in seen[-1].parameters() if one.requires_grad]
            chosen = dice("which", task, value).choice(parameters).data
            chosen[(-1,) * chosen.ndim] = value

        def job() -> int:
            opening.build_model = build
            return training(whole.recipe, run, steps=[(step, spoil)])()

        child = Child(job, run.with_suffix(".log"))
        child.wait()
        return child.refusal() or _published(run) or _says(child.said(), run, good) or _good(whole, run, good)

    return survives(f"a weight becomes {value}", f"{task}, in step {step}", whole, run, interrupt)


def too_fast(whole: Whole, task: str, run: Path) -> Trial:
    """A rate that drives the weights out of their numbers at once; another recipe, so nothing goes on from it."""
    recipe = replace(whole.recipe, optim=replace(whole.recipe.optim, lr=1e30, warmup=0.0, clip_grad=None))
    child = Child(training(recipe, run), run.with_suffix(".log"))
    child.wait()
    fault = child.refusal() or _published(run) or _says(child.said(), run, 0)
    return Trial("a learning rate of 1e30", task, fault)


def _published(run: Path) -> str:
    there = [name for name in ("model.safetensors", "metrics.json") if (run / name).exists()]
    return f"it published {there}" if there else ""


def _says(said: str, run: Path, good: int) -> str:
    wanted = ["lower --optim.lr (now ", "in this step)", " step ", f"step-{good:08d}" if good else "no checkpoint had been written"]
    missing = [word for word in wanted if word not in said]
    return f"it does not say {missing}: {said[-500:]}" if missing else ""


def _good(whole: Whole, run: Path, good: int) -> str:
    latest = latest_checkpoint(run)
    if latest is None or latest.name != f"step-{good:08d}":
        return f"the last checkpoint is {latest}, expected one of step {good}"
    saved = read_checkpoint(latest, whole.recipe.to_dict())
    wrong = [name for name, value in saved["weights"].items() if value.is_floating_point() and not torch.isfinite(value).all()]
    return f"{latest} holds {wrong}" if wrong else ""


@campaign
def checkpoints(work: Path, size: Size) -> Iterator[Trial]:
    """The newest checkpoint of a run is damaged: the one before is taken, with a message, and the end is the same."""
    for task in ("Classification",) if size.short else ("Classification", "AdversarialGeneration", "Diffusion"):
        whole = whole_run(tiny_of(task), work / task / "whole" / "run")
        source = whole.run
        files = sorted(path.name for path in (source / "checkpoints" / "step-00000006").iterdir())
        damages = ("one bit",) if size.short else ("empty", "half", "one bit", "zeros", "missing") if task == "Classification" else ("one bit", "half")
        for name in ("state.pt",) if size.short else files:
            for damage in damages:
                yield _damaged(whole, task, source, work / task / f"{name}-{damage}" / "run", name, damage)


def _damaged(whole: Whole, task: str, source: Path, run: Path, name: str, damage: str) -> Trial:
    newest = run / "checkpoints" / "step-00000006"

    def interrupt(run: Path) -> str:
        shutil.copytree(source, run, dirs_exist_ok=True)
        for published in ("model.safetensors", "metrics.json"):
            (run / published).unlink()
        if damage == "missing":
            (newest / name).unlink()
        else:
            (newest / name).write_bytes(DAMAGES[damage].change((newest / name).read_bytes()))
        return ""

    def resume(run: Path) -> str:
        child = Child(training(whole.recipe, run, quiet=False), run.with_suffix(".log"))
        code, said = child.wait(), " ".join(child.said().split())
        if code != 0:
            return f"it ended with {code}: {said[-500:]}"
        told = "going on from step 4 instead" in said and "step-00000006" in said
        return "" if told else f"it did not say so: {said[-500:]}"

    return survives("the newest checkpoint is damaged", f"{task}, {name}, {damage}", whole, run, interrupt, resume, damaged=True)
