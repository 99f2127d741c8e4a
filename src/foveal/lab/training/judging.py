"""What a network is worth: its metrics on a split, in one way for training and ``foveal eval``, and whether its weights are numbers at all."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from ..._errors import InputError
from ..data import DataBundle, Split
from .phases import naming
from .pieces import own_part
from .recipe import Recipe
from .samples import SampleScores

__all__ = ["Diverged", "evaluate", "loss_after", "not_finite", "scalars"]


class Diverged(InputError):
    """Weights or losses that are no numbers any more. Nothing of them was published."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    bundle: DataBundle,
    accelerator: Accelerator | None = None,
    results: list[Any] | None = None,
    samples: SampleScores | None = None,
) -> dict[str, Any]:
    """Metrics of a split: numbers by name, and where a task has them ``per_class``.

    In float32, whatever the precision of training, and on any number of processes bit for bit the same on the same kind of device: batches hold the same
    samples, each process takes its share of them, and what is counted is put together in the order of the batches. Processes that have other statistics of
    batch norm get those of the first, which are those that are saved.

    Args:
        model: the network.
        split: to be judged on.
        recipe: with the task.
        bundle: the data the split is of.
        accelerator: of several processes, all of which get the numbers of the whole.
        results: a list that gets what this process predicted, as the task writes it.
        samples: gets the headline of each sample of the whole split, where the task has one.

    Raises:
        ValueError: the loss or the task's own number is not finite; a metric cannot be shared among processes.
    """
    task = recipe.task
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    if world > 1:
        _share_buffers(model)
    device = next(model.parameters()).device
    metrics = task.metrics(bundle).to(device)
    in_pieces = all(map(_joins, metrics.values(copy_state=False)))
    if world > 1 and not in_pieces:
        raise InputError(f"{type(task).__name__} has metrics whose states are neither summed nor listed, so processes cannot share them; train on one")
    size = task.eval_batch_size
    batches = [range(start, min(start + size, len(split))) for start in range(0, len(split), size)]
    pieces: list[tuple[int, States]] = []
    model.eval()
    loader: DataLoader[Any] = DataLoader(split, batch_sampler=batches[rank::world], num_workers=recipe.workers, collate_fn=task.collate)  # type: ignore[arg-type]
    with torch.autocast(device.type, enabled=False):
        for number, batch in zip(range(rank, len(batches), world), loader, strict=True):
            inputs, targets = send_to_device(batch, device)
            outputs = task.predict(model, inputs)
            task.update(metrics, outputs, targets)
            if samples is not None:
                samples.add(number, task.per_sample(outputs, targets), batch[0])
            if results is not None:
                results += task.results(outputs, targets, bundle)
            if in_pieces:
                pieces.append((number, _taken(metrics)))
                if world == 1:
                    pieces = _joined(pieces)
    if samples is not None and world > 1:
        samples.gather()
    if in_pieces:
        if world > 1:
            pieces = gather_object([(number, send_to_device(piece, "cpu")) for number, piece in pieces])
            pieces = _joined([(number, send_to_device(piece, device)) for number, piece in sorted(pieces, key=lambda piece: piece[0])])
        _give(metrics, pieces)
    found = task.summarize(metrics, bundle)
    wrong = {name: found.get(name) for name in (task.primary_metric.name, "loss") if isinstance(found.get(name), float) and not math.isfinite(found[name])}
    if wrong:
        said = ", ".join(f"{name} is {value}" for name, value in wrong.items())
        raise Diverged(f"the network's answers are no numbers: {said} over {len(split)} samples; its weights are spoilt; train again with a lower --optim.lr")
    return found


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers among metrics, for tables, histories and trackers."""
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))}


def not_finite(model: nn.Module) -> list[str]:
    """Names of parameters that hold NaN or infinity, and of buffers that hold NaN; where they lie in pieces, in those of this process."""
    tensors = {name: own_part(value) for name, value in model.named_parameters() if value.is_floating_point()}
    # a buffer may be a mask, whose infinities are meant
    checks = {name: value.isfinite().all() for name, value in tensors.items()}
    checks |= {name: ~value.isnan().any() for name, value in model.named_buffers() if value.is_floating_point()}
    if not checks or bool(torch.stack([check.to(next(iter(checks.values())).device) for check in checks.values()]).all()):
        return []
    return [name for name, fine in checks.items() if not fine]


@torch.no_grad()
def loss_after(recipe: Recipe, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> Tensor:
    """The training loss of a batch with the weights as they are, over all phases; it leaves no trace: neither in random numbers nor in buffers."""
    device = next(model.parameters()).device
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=kind):
        model.train()
        phases = recipe.task.phases()
        losses = [recipe.task.step(model, forward, inputs, targets, bundle, **naming(phase, phases))[0] for phase in phases]
    for buffer, before in kept:
        buffer.copy_(before)
    return sum(losses[1:], losses[0]).detach()


def _share_buffers(model: nn.Module) -> None:
    for buffer in model.buffers():
        whole = buffer.contiguous()
        torch.distributed.broadcast(whole, 0)
        if whole is not buffer:
            buffer.copy_(whole)


States = dict[str, dict[str, Any]]
"""Of each metric by name, what it counted, by state."""


def _longer(a: list[Any], b: list[Any]) -> list[Any]:
    a.extend(b)
    return a


_JOIN: dict[Any, Callable[[Any, Any], Any]] = {
    dim_zero_sum: torch.add,
    dim_zero_max: torch.maximum,
    dim_zero_min: torch.minimum,
    dim_zero_cat: _longer,
    None: _longer,
}
"""How the states of two parts of a split become that of both, by how torchmetrics shares them among processes."""


def _joins(metric: Metric) -> bool:
    def fits(state: str, default: Any) -> bool:
        how = metric._reductions[state]
        return how in _JOIN and isinstance(default, list) == (_JOIN[how] is _longer)

    inner = any(isinstance(module, Metric) for module in metric.modules() if module is not metric)
    return not inner and all(fits(state, default) for state, default in metric._defaults.items())


def _taken(metrics: MetricCollection) -> States:
    """What was counted since the last time, and how it joins what comes after."""
    taken = {
        name: {state: (metric._reductions[state], list(value) if isinstance(value, list) else value) for state, value in metric.metric_state.items()}
        for name, metric in metrics.items(copy_state=False)
    }
    metrics.reset()
    return taken


def _joined(pieces: list[tuple[int, States]]) -> list[tuple[int, States]]:
    """One in the place of all, added in their order."""
    for _, piece in pieces[1:]:
        for name, states in piece.items():
            whole = pieces[0][1][name]
            for state, (how, value) in states.items():
                whole[state] = (how, _JOIN[how](whole[state][1], value))
    return pieces[:1]


def _give(metrics: MetricCollection, pieces: list[tuple[int, States]]) -> None:
    for name, metric in metrics.items(copy_state=False):
        # every process has the whole already
        metric.distributed_available_fn = lambda: False
        for _, piece in pieces:
            metric._update_count = 1
            for state, (_, value) in piece[name].items():
                setattr(metric, state, value)
