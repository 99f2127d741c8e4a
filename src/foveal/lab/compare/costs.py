"""What the attentions of a plan cost, measured on the device that trains."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device

from ..._errors import InputError
from ...analysis import latency
from ...analysis.cost import peak_of_call
from ...attention import CrossSampleDictionary
from ..data import DataBundle, Split
from ..training import Recipe, build_model, load_data, write_json
from ..training.models import build_alike
from ..training.phases import naming
from .plan import Plan

__all__ = ["batch_to_measure", "measure_costs", "measure_memory", "steps_for_minutes"]

LATENCY_BATCH = 16


def steps_for_minutes(recipe: Recipe, plan: Plan, minutes: float) -> int:
    """Steps that the most expensive variant takes in that time, a tenth kept for evaluation; rounded, so that small noise does not show.

    Measured on the device that trains, in the recipe's precision: the accelerator where there is one, otherwise one thread of the processor.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"minutes-per-run must be above 0 and finite, got {minutes}")
    bundle = load_data(recipe.data)
    macs = {arm.name: recipe.task.cost(_ready(build_model(plan.run_recipe(arm, 0), bundle)), bundle).macs for arm in plan.arms}
    dearest = max(plan.arms, key=lambda arm: macs[arm.name])
    step = _prepare_step(plan.run_recipe(dearest, 0), bundle, _batch(recipe, bundle.train, recipe.batch_size), _device())
    seconds = latency({"step": step}, rounds=3)["step"]
    steps = 0.9 * 60 * minutes / seconds
    return max(10, round(steps / 10) * 10)


def batch_to_measure(recipe: Recipe) -> tuple[DataBundle, tuple[Any, Any]]:
    """What a process needs to measure the memory of a step, so that it need not load the data."""
    bundle = load_data(recipe.data)
    return bundle.described(), _batch(recipe, bundle.train, recipe.batch_size)


def measure_memory(recipe: Recipe, bundle: DataBundle, batch: tuple[Any, Any], path: Path) -> str:
    """Write the bytes of a training step, measured in this process, which must have done nothing before."""
    write_json(path, {"bytes": _device_memory(recipe, bundle, batch) or peak_of_call(_prepare_step, recipe, bundle, batch)})
    return ""


def _ready(model: torch.nn.Module) -> torch.nn.Module:
    """Training fits dictionaries of clusters before its first step; what they hold costs nothing."""
    for module in model.modules():
        if isinstance(module, CrossSampleDictionary):
            module.fitted = True
    return model


def _batch(recipe: Recipe, split: Split, size: int) -> tuple[Any, Any]:
    """The first samples, over again where there are few."""
    return recipe.task.collate([split[i % len(split)] for i in range(size)])


def _device() -> torch.device:
    """The one that runs train on."""
    return torch.accelerator.current_accelerator() or torch.device("cpu") if torch.accelerator.is_available() else torch.device("cpu")


def _prepare_step(recipe: Recipe, bundle: DataBundle, batch: tuple[Any, Any], device: torch.device | str = "cpu") -> Callable[[], None]:
    device = torch.device(device)
    model = _ready(build_model(recipe, bundle)).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs, targets = send_to_device(batch, device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
    phases = recipe.task.phases()
    forward = recipe.task.trained(model)

    def step() -> None:
        # one after the other, as in training, where no two phases are in memory at once
        for phase in phases:
            with torch.autocast(device.type, half, enabled=half is not None):
                loss, _ = recipe.task.step(model, forward, inputs, targets, bundle, **naming(phase, phases))
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


def measure_costs(plan: Plan, memory: dict[str, int]) -> dict[str, Any]:
    bundle, task, device = load_data(plan.recipe.data), plan.recipe.task, _device()
    models = {arm.name: _ready(build_alike(plan.run_recipe(arm, 0), bundle)).eval() for arm in plan.arms}
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
