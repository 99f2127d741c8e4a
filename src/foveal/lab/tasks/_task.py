"""What every task says of itself, so that training, comparison and command line need to know none of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchmetrics import MetricCollection

from ..._old_members import accept_old_members
from ..._ranges import Range, check_ranges
from ..._registry import Registry
from ...analysis import cost
from ...attention import Cost
from ..data import DataBundle
from ._phase import Phase

__all__ = ["TASKS", "Cell", "PrimaryMetric", "Row", "SampleOrder", "State", "Task", "register_task"]

Metrics = dict[str, Any]
"""Numbers by name, and where there are classes ``per_class``: by class, numbers by name."""

_OLD = {
    "headline": "primary_metric",
    "needs": "model_kwargs",
    "running": "train_metrics",
    "renewals": "refresh_steps",
    "renew": "refresh",
    "record": "export_state",
}
"""Answers under the names that they had before 0.2."""

State = dict[str, Tensor]
"""What a task learns of its data between steps; it is saved with the weights. Empty for nearly all."""


class SampleOrder(Protocol):
    """An order of samples."""

    def batch(self, step: int) -> list[tuple[int, ...]]:
        """The samples of a step, over all processes: the number of the draw, which decides its augmentation, the sample's index, and what the task adds.

        Processes and micro-batches take equal pieces of it, in a row.
        """
        ...


@dataclass(frozen=True)
class PrimaryMetric:
    """The one number that a run is judged by."""

    name: str
    """Its key among the metrics."""
    label: str
    """In words."""
    larger_is_better: bool = True
    scale: float = 100.0
    """What it is multiplied by to be shown."""
    unit: str = "%"
    step: str = "points"
    """Unit of a difference."""
    decimals: int = 1
    ranks: bool = True
    """Whether runs can be told better from worse by it; where each has a measure of its own, they cannot."""

    def show(self, value: float) -> str:
        number = f"{self.scale * value:.{self.decimals}f}"
        return f"{number}%" if self.unit == "%" else f"{number} {self.unit}"


@dataclass(frozen=True)
class Cell:
    """One picture of a row."""

    picture: NDArray[np.uint8]
    """``(H, W, 3 or 1)``."""
    caption: str = ""
    wrong: bool = False


@dataclass(frozen=True)
class Row:
    """Pictures side by side, one for each sample shown."""

    title: str
    cells: list[Cell] = field(default_factory=list)


class Task(ABC):
    """A frozen dataclass of settings, with these answers. The samples of a split are ``(input, target)``; what both are is the task's affair.

    A task that is like classification (images that stack, a network called with them alone) gives ``targets``, ``primary_metric``, :meth:`loss`,
    :meth:`metrics` and :meth:`update`; the rest has defaults. One whose network is trained in another way gives :meth:`step` and :meth:`predict`.
    """

    targets: ClassVar[str]
    """The same word as the data's and the model's, such as ``labels``, ``masks``, ``boxes``, ``disparity``."""
    trains: ClassVar[str] = ""
    """The networks it trains, in the word of :attr:`ModelConfig.trained_as`; any with the same targets if empty."""
    sample_name: ClassVar[str] = "image"
    """What a sample is called where samples are counted."""
    primary_metric: ClassVar[PrimaryMetric]
    train_metrics: ClassVar[tuple[str, ...]] = ()
    """Names of what :meth:`step` reports besides the loss; the first is shown while training."""
    train_shares: ClassVar[bool] = True
    """Whether these are shares, to be shown in percent."""
    eval_batch_size: ClassVar[int] = 256
    ranges: ClassVar[Mapping[str, Range]] = {}
    """What its numbers may be, by field. All others must be finite."""
    next_commands: ClassVar[tuple[str, ...]] = ()
    """Commands that take a finished run, besides ``eval``, without their first word; ``{run}`` is its folder."""
    report_needs: ClassVar[tuple[str, ...]] = ()
    """Modules that :meth:`write_report` needs; where one is not installed, a run is finished without and says so."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        accept_old_members(cls, _OLD)

    def __post_init__(self) -> None:
        """Refuse settings that make no task."""
        check_ranges(self)

    def model_kwargs(self, bundle: DataBundle) -> dict[str, Any]:
        """Keyword arguments of the model's ``build``."""
        return {"img_size": bundle.img_size, "in_chans": bundle.in_chans, "num_classes": len(bundle.classes)}

    def check_data(self, bundle: DataBundle) -> None:  # noqa: B027  # most take what their data are
        """Refuse, before anything is trained, data or packages that would be found wanting at its end. Nothing by default.

        Raises:
            ValueError: what is missing, and how to get it.
        """

    def collate(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Samples to a batch ``(inputs, targets)``; ``len(targets)`` is their number. Tensors, and lists, tuples and dicts of them go to the device."""
        inputs, targets = default_collate(list(samples))
        return inputs, targets

    def trained(self, model: nn.Module) -> nn.Module:
        """What :meth:`step` calls as ``forward``, with the model's parameters and no others."""
        return model

    def phases(self) -> tuple[Phase, ...]:
        """What a training step does in turn. Every trainable parameter belongs to one phase; where there are several, :meth:`step` is told ``phase=NAME``."""
        return (Phase(),)

    def shards(self) -> bool:
        """Whether a step reads no weight but through ``forward``, so that the network may lie in pieces, one a process. Not unless a task says so."""
        return False

    def averaged(self) -> str:
        """How the names of the parameters begin of which ``optim.ema`` keeps an average, the rest being copied; the whole state if empty."""
        return ""

    def settle_(self, average: nn.Module) -> None:  # noqa: B027  # most have nothing to settle
        """Bring buffers that follow from the weights, and that no average of buffers gives, into line with averaged weights."""

    def refresh_steps(self, steps: int) -> tuple[int, ...]:
        """Steps of a run before which :meth:`refresh` is asked; step 0 is the start."""
        return ()

    def refresh(self, step: int, model: nn.Module, samples: Iterable[tuple[Any, Any]], bundle: DataBundle, seed: int) -> State:
        """Learn something of the training data, from the network as it is.

        A run that was stopped and goes on asks again, so this must follow from its arguments and torch's random numbers alone. The first process decides for
        all.

        Args:
            step: that is about to come.
            model: the network, in evaluation mode, without gradients.
            samples: the training split in its order, in batches of :meth:`collate`, on the device.
            bundle: the data.
            seed: of this step.
        """
        raise NotImplementedError(f"{type(self).__name__} names refresh_steps but has no refresh")

    def order(self, bundle: DataBundle, batch_size: int, seed: int, state: State) -> SampleOrder | None:
        """Which samples a step sees until the next refresh; None for all in turn, shuffled. What it adds to a sample follows it into :meth:`collate`."""
        return None

    def export_state(self, state: State, bundle: DataBundle) -> dict[str, bytes]:
        """The state as files of the run's folder, by name, for people and other machines."""
        return {}

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        """One forward pass of training.

        Args:
            model: the network itself, for what is read off its weights.
            forward: the network to call; it may share gradients with other processes.
            inputs: of :meth:`collate`, on the device.
            targets: likewise.
            bundle: what is known of the data.

        Returns:
            The loss, a mean over samples, and for each name of ``train_metrics`` a sum over samples.
        """
        outputs = forward(inputs)
        return self.loss(model, outputs, targets), {}

    def reach(self, model: nn.Module, inputs: Any, targets: Any, bundle: DataBundle) -> Any:
        """A forward pass that comes to all parts of the network, in evaluation mode: for what is fitted to the tokens of training samples before the start."""
        return model(inputs)

    def loss(self, model: nn.Module, outputs: Any, targets: Any) -> Tensor:
        """The training loss, a mean over samples."""
        raise NotImplementedError(f"{type(self).__name__} gives neither loss nor step")

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Outputs in evaluation mode, without gradients."""
        return model(inputs)

    @abstractmethod
    def metrics(self, bundle: DataBundle) -> MetricCollection:
        """Fresh torchmetrics, which share among processes when computed."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        """Count a batch, whose outputs :meth:`predict` made."""

    def per_sample(self, outputs: Any, targets: Any) -> Tensor | None:
        """The headline of each sample of a batch, whose mean over a split is the split's headline; None where the headline is no such mean, as box AP is none.

        Stored with a run's metrics, so that intervals can include that other test samples might have been drawn.
        """
        return None

    def summarize(self, metrics: MetricCollection, bundle: DataBundle) -> Metrics:
        """Plain numbers; the headline's is among them."""
        return {name: value.item() for name, value in metrics.compute().items()}

    def chance(self, bundle: DataBundle) -> float | None:
        """The headline of guessing, where that has a meaning."""
        return None

    def watched(self, model: nn.Module) -> dict[str, float]:
        """Numbers of the network itself, by name, that the history keeps beside those of each evaluation, and that judge nothing. None by default."""
        return {}

    def cost(self, model: nn.Module, bundle: DataBundle) -> Cost:
        """Parameters and multiply-adds of one sample."""
        return cost(model, (bundle.in_chans, bundle.img_size, bundle.img_size))

    def remarks(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        """What the course of a run tells who reads it, out of the lines of its history: shown once, and kept among the notes of its metrics."""
        return []

    def results(self, outputs: Any, targets: Any, bundle: DataBundle) -> list[Any]:
        """A batch of predictions as entries of a results file in the format of the task's benchmark; none where it has no such format."""
        return []

    def draw_truth(self, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """The samples and their truth as pictures; none where pictures say nothing."""
        return []

    def draw(self, samples: Sequence[tuple[Any, Any]], outputs: Any, bundle: DataBundle) -> list[Row]:
        """What was predicted for them, and where it is wrong."""
        return []

    def draw_prediction(self, inputs: Any, outputs: Any, bundle: DataBundle) -> list[Row]:
        """What was predicted for images without a truth."""
        return []

    def assess(self, model: nn.Module, bundle: DataBundle, folder: Path) -> Metrics:
        """Further numbers of a finished run on its test, which cost too much for every evaluation; ``notes`` among them are lines of text. None by default.

        Args:
            model: trained, in evaluation mode.
            bundle: its data.
            folder: of the run, for what is kept to measure with.
        """
        return {}

    def write_report(self, model: nn.Module, bundle: DataBundle, metrics: Metrics, folder: Path) -> list[Path]:
        """Pictures of a finished run, for people; its files. None by default.

        Args:
            model: trained, in evaluation mode.
            bundle: its data.
            metrics: of its test.
            folder: where to; it is made.
        """
        return []

    @torch.no_grad()
    def shown(self, model: nn.Module, samples: Sequence[tuple[Any, Any]], bundle: DataBundle) -> list[Row]:
        """:meth:`draw` of the model's own predictions."""
        if not self.draw_truth(samples[:1], bundle):
            return []
        inputs, _ = self.collate(samples)
        return self.draw(samples, self.predict(model.eval(), inputs), bundle)


accept_old_members(Task, _OLD)

TASKS: Registry[type[Task]] = Registry("kind of task")
register_task = TASKS.register
"""Decorates a :class:`Task` class, so that recipes with it go to JSON and back."""
