"""The first part of a run: everything is checked, made, and put where the last checkpoint left it, before a step is taken."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import gather_object
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..._errors import InputError
from ...attention import CrossSampleDictionary, fit_dictionaries_
from ..data import DataBundle
from .batches import BatchStream, Samples
from .checkpoint import check_folder, drop_older, latest_checkpoint, read_newest, restore
from .early import Early
from .features import kept_features
from .models import NETWORK, build_model, check_classes, load_data
from .phases import OpenPhase, PartEma, open_phases
from .reading import Damaged, cut_history, read_history, to_json, write_json
from .recipe import Recipe
from .resuming import restore_state
from .sharding import Whole, check_sharding, is_sharded
from .speed import channels_last_, settled

__all__ = ["Run", "check_folder_is_new", "check_recipe", "make_accelerator", "open_run"]

_ELSEWHERE = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""What ``accelerate launch`` sets for ways that the loop does not go; its weights would be saved and judged in pieces."""


@dataclass
class Run:
    """An open run: what the loop trains with, and what the end judges and writes."""

    recipe: Recipe
    folder: Path
    accelerator: Accelerator
    bundle: DataBundle
    model: Any
    bare: nn.Module
    """What of the model training calls, as the task says."""
    phases: list[OpenPhase]
    """What a step does in turn, each with its optimizer."""
    ema: ModelEmaV3 | None
    batches: BatchStream
    first: int
    """The step that comes next."""
    empty: dict[str, Any]
    """A window of losses without any."""
    window: dict[str, Any]
    """Sums since the last evaluation, of this process."""
    notes: list[str]
    """What the user should know."""
    early: Early
    """Whether training ends before its last step, and where it was best."""
    history: list[dict[str, Any]]
    """Lines of the evaluations so far."""
    last: int = 0
    """The step behind which training ended."""
    whole: Whole | None = None
    """The network with all weights, where they lie in pieces."""

    @property
    def judged(self) -> Any:
        """The network that is evaluated and published: the average of the weights, where there is one; between :meth:`gather_` and :meth:`rest_`."""
        if self.whole is not None:
            return self.whole.module
        return self.model if self.ema is None else self.ema.module

    def gather_(self) -> None:
        """Before what is judged is looked at, in all processes."""
        if self.whole is not None:
            self.whole.take_(self.model, self.accelerator.device)

    def rest_(self) -> None:
        """Behind it."""
        if self.whole is not None:
            self.whole.rest_()

    def new_remarks(self, entry: dict[str, Any]) -> list[str]:
        """What the task says of the course of the run with this line, and did not say before."""
        before = self.recipe.task.remarks(self.history)
        self.history.append(entry)
        return [said for said in self.recipe.task.remarks(self.history) if said not in before]

    def settle_(self) -> None:
        """Before the average is looked at: what in it follows from its weights. To do it again changes nothing."""
        if isinstance(self.ema, PartEma):
            self.ema.settle_(self.model)


def check_recipe(recipe: Recipe, run: Path, resume: bool) -> None:
    """Refuse what no run can be, before anything is made.

    Raises:
        ValueError: see :func:`foveal.lab.training.fit`.
    """
    check_folder(run)
    check_folder_is_new(run, resume)
    check_sharding(recipe)
    if json.loads(to_json(recipe.to_dict())) != recipe.to_dict():
        raise InputError("the recipe holds a number that is not finite, which no file can keep; give a finite one")
    if "tensorboard" in recipe.trackers and not _is_text(run):
        raise InputError(f"{run} has bytes that are no UTF-8, which TensorBoard cannot write to; choose another folder, or leave it out of --trackers")
    absent = set(recipe.trackers) - {str(tracker) for tracker in get_available_trackers()}
    if absent:
        raise InputError(f"tracker {', '.join(sorted(absent))} is not known or not installed; install its package, or leave it out of --trackers")


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_folder_is_new(run: Path, resume: bool) -> None:
    """Refuse a folder with a run, unless that is to go on."""
    if not resume and ((run / "recipe.json").exists() or latest_checkpoint(run)):
        raise InputError(f"{run} holds a run already; continue it with --resume {run}, or choose another folder")


def make_accelerator(recipe: Recipe, run: Path) -> Accelerator:
    """Device, precision and processes.

    Raises:
        ValueError: the processes cannot share a batch.
    """
    asked = [name for name in _ELSEWHERE if os.environ.get(name, "false").lower() in ("true", "1", "yes")]
    if asked:
        raise InputError(f"accelerate's configuration asks for another way to share a network ({asked[0]}); choose its plain way, and here --fsdp True")
    # accelerate keeps its settings per process; a second run in this one may want other precision. There is no public way to forget them: free_memory and
    # end_training keep them, and a new Accelerator of another precision is refused
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.optim.accumulate,
        log_with=list(recipe.trackers) or None,
        project_dir=run,
        dynamo_backend="inductor" if recipe.compile else None,
    )
    world = accelerator.num_processes
    if recipe.batch_size % (world * recipe.optim.accumulate):
        raise InputError(f"batch_size {recipe.batch_size} cannot be shared by {world} processes × {recipe.optim.accumulate} micro-batches; make it divisible")
    return accelerator


def open_run(recipe: Recipe, run: Path, accelerator: Accelerator, features: Path | None = None) -> Run:
    """Data, model, optimizer and schedule, as new or as the newest checkpoint holds them; recipe.json and classes.json are written.

    Raises:
        ValueError: see :func:`foveal.lab.training.fit`.
    """
    recipe, said = settled(recipe, accelerator.device)
    bundle = load_data(recipe.data)
    recipe.task.check_data(bundle)
    newest = read_newest(run, recipe.to_dict())
    if newest is not None:
        check_classes(run, bundle)
    model = build_model(recipe, bundle)
    if recipe.channels_last:
        channels_last_(model)
    phases = open_phases(model, recipe, accelerator)
    first, notes = 0, [*said, *bundle.notes]
    if newest is None:
        _fit_dictionaries(model, bundle, recipe, accelerator.device)
        notes += recipe.model.begin_(model, bundle.train, recipe.seed)
    else:
        checkpoint, saved, passed_over = newest
        first, notes = saved["step"], [*passed_over, *notes]
        restore(model, saved["weights"], checkpoint)
    if len(set(gather_object([first]))) > 1:
        raise Damaged(f"the processes read different checkpoints of {run}; look whether all see the same disk, and go on with: foveal train --resume {run}")
    ema = None
    if recipe.optim.ema is not None:
        options: dict[str, Any] = {"decay": recipe.optim.ema, "device": accelerator.device}
        ema = PartEma(model, recipe.task, **options) if recipe.task.averaged() else ModelEmaV3(model, **options)
        if newest is not None:
            if saved["ema"] is None:
                raise Damaged(f"{checkpoint} has no ema.safetensors, which its recipe asks for; remove it to start from an older checkpoint or anew")
            restore(ema.module, saved["ema"], checkpoint)
    bare = recipe.task.trained(model)
    whole = Whole(model) if is_sharded(recipe, accelerator) else None
    for phase in phases:
        phase.prepare_(_Trained(bare), accelerator)
    if whole is not None:
        # weights in pieces come together where they are called through this
        bare = phases[0].trained
    empty: dict[str, Any] = {"loss": 0.0, "seen": 0, **dict.fromkeys(recipe.task.train_metrics, 0.0)}
    window: dict[str, Any] = empty
    learned: dict[str, Tensor] = {}
    if newest is not None:
        # not before it is prepared, which would move what belongs on the host, such as AdamW's count of steps, to the device
        window, learned = restore_state(phases, accelerator, saved["state"], empty, checkpoint, model)

    if features is not None and recipe.model.brings_weights and accelerator.num_processes == 1:
        bundle, note = kept_features(model, bundle, recipe, features, () if ema is None else (ema.module,))
        notes.append(note)

    if accelerator.is_main_process:
        write_json(run / "recipe.json", recipe.to_dict())
        if newest is None:
            write_json(run / "classes.json", list(bundle.classes))
            recipe.model.keep(run / NETWORK)
        else:
            drop_older(run, recipe.to_dict(), newest[0])
        cut_history(run / "history.jsonl", first)
    accelerator.init_trackers("foveal", config=_flat(recipe.to_dict()))
    return Run(
        recipe=recipe,
        folder=run,
        accelerator=accelerator,
        bundle=bundle,
        model=model,
        bare=bare,
        phases=phases,
        ema=ema,
        batches=BatchStream(recipe, bundle, model, accelerator, run, learned),
        first=first,
        empty=empty,
        window=window,
        notes=notes,
        early=Early(recipe, run, first),
        history=read_history(run / "history.jsonl", []) if (run / "history.jsonl").exists() else [],
        last=first,
        whole=whole,
    )


class _Trained(nn.Module):
    """What accelerate gets in the place of the network: it makes ``forward`` one of half precision, which evaluation must not meet."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.inner(*inputs, **options)


def _fit_dictionaries(model: nn.Module, bundle: DataBundle, recipe: Recipe, device: torch.device) -> None:
    """Dictionaries of clusters are fitted to the whole training set before the first step. Every process does the same."""
    if any(isinstance(module, CrossSampleDictionary) and not module.fitted for module in model.modules()):
        samples = Samples(bundle.train, recipe, device)
        fit_dictionaries_(model.to(device), samples, seed=recipe.seed, call=lambda model, batch: recipe.task.reach(model, batch[0], batch[1], bundle))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Trackers take plain values under plain names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return out
