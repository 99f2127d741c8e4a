"""Classification by CaaM: one head for each environment of the training set, and environments that are learned while the network is.

Paper      Wang et al., "Causal Attention for Unbiased Visual Recognition", ICCV 2021 (arXiv 2108.08782).
Official   Wangt-CN/CaaM ``0-NICO/train_module.py``, ``1-Imagenet9/train_module.py``
Batch      b images of each environment and as many of all data: 2 · E · b. Each environment, and those of all data, pass the network apart, so that batch norm
           sees each alone. An epoch is as long as the largest environment; small ones repeat.
Differs    The first environments are random, or come from a file; the authors ship a file that an ordinarily trained network made
           (``foveal.lab.training.reference_partition`` makes one). The classifier on the complement is fitted to one pass over the training set, in whole
           batches; the authors' sees it augmented anew in up to 100 epochs. What differs in the loss and in the partition stands in
           ``foveal.lab.tasks.environments``.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from torchmetrics import MetricCollection

from ..._errors import InputError
from ...models import EnvironmentHeads, Streams
from ..data import DataBundle, Split, seed_of
from ._task import PrimaryMetric, State, Task, register_task
from .classification import Classification
from .environments import Partition, complement_logits, environment_batches, learn_partition, loss_of_known, random_partition

__all__ = ["CausalLearning", "names_of"]

_OF_ALL = -1
"""In the place of an environment, for images that are drawn from all data."""


def names_of(split: Split) -> list[str]:
    """Names of a split's samples, which stay what they are on another machine; their numbers where a split has none."""
    return list(getattr(split, "names", None) or map(str, range(len(split))))


@register_task
@dataclass(frozen=True, kw_only=True)
class CausalLearning(Task):
    """Heads that must agree over environments, on a network with causal, complementary and mixed features.

    The network has ``streams(images)`` and an :class:`~foveal.models.EnvironmentHeads` as ``head``: ``fov_caam_resnet18``, ``fov_caam_t2t_vit_7``. Inference
    is the mean of all heads on the causal features. Environments are written to ``environments.json`` in the run's folder whenever they change.

    Raises:
        ValueError: settings that make no training; a batch that is no multiple of twice the environments; a network of another kind.
    """

    targets: ClassVar[str] = "labels"
    next_commands: ClassVar[tuple[str, ...]] = ("inspect {run} IMAGE",)
    primary_metric: ClassVar[PrimaryMetric] = Classification.primary_metric
    train_metrics: ClassVar[tuple[str, ...]] = Classification.train_metrics

    environments: int = 4
    """Number of environments."""
    lam_rel: float = 97.7
    """Weight of what ties the heads, apart from their size, so λ / (classes · features)."""
    first: str = "random"
    """Environments at the start are ``random``, or those of a file that has one for each sample by name, as ``environments.json`` is."""
    partition_at: tuple[float, ...] = ()
    """Shares of the steps after which environments are learned from the complement anew; without any the first ones stay."""
    partition_epochs: int = 100
    """Of learning them."""
    min_share: float = 0.1
    """Least size of a learned environment, as a share of what equal ones would have."""
    mixup: float = 0.0
    """Alpha of mixup among the images of all data; 0 is none."""

    def __post_init__(self) -> None:
        if self.environments < 1 or self.lam_rel < 0 or self.mixup < 0 or self.partition_epochs < 1 or not 0 <= self.min_share <= 1:
            raise InputError(f"expected environments and partition_epochs of at least 1, lam_rel and mixup of at least 0, 0 ≤ min_share ≤ 1, got {self}")
        if any(not 0 < share < 1 for share in self.partition_at) or (self.partition_at and self.environments == 1):
            raise InputError(f"partition_at are shares between 0 and 1, of several environments, got {self.partition_at} of {self.environments}")

    # -- the environments ------------------------------------------------------------------------------------------------------------------------

    def refresh_steps(self, steps: int) -> tuple[int, ...]:
        return tuple(sorted({0, *(round(share * steps) for share in self.partition_at)}))

    def refresh(self, step: int, model: nn.Module, samples: Iterable[tuple[Any, Any]], bundle: DataBundle, seed: int) -> State:
        names = names_of(bundle.train)
        if step == 0:
            partition = random_partition(names, self.environments, seed=seed) if self.first == "random" else Partition.load(Path(self.first))
        else:
            streams: Any = model.streams
            seen = [(streams(inputs).complement.float().cpu(), labels.cpu()) for inputs, labels in samples]
            features, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
            torch.manual_seed(seed)
            logits = complement_logits(features, labels, len(bundle.classes))
            floor = int(self.min_share * len(names) / self.environments)
            partition, _ = learn_partition(logits, labels, names, self.environments, epochs=self.partition_epochs, min_size=floor, seed=seed)
        found = partition.of(names)
        if int(found.max()) >= self.environments:
            raise InputError(f"{self.first} has environments up to {int(found.max())}; give --task.environments {int(found.max()) + 1}, or another file")
        return {"environments": found}

    def export_state(self, state: State, bundle: DataBundle) -> dict[str, bytes]:
        partition = Partition(dict(zip(names_of(bundle.train), state["environments"].tolist(), strict=True)))
        return {"environments.json": partition.to_json().encode()}

    def order(self, bundle: DataBundle, batch_size: int, seed: int, state: State) -> "EnvironmentWalk":
        return EnvironmentWalk(state["environments"], self.environments, batch_size, seed)

    # -- a step ----------------------------------------------------------------------------------------------------------------------------------

    def collate(self, samples: Sequence[tuple[Any, ...]]) -> tuple[Any, Any]:
        """Labels ``(B,)``; in training ``(B, 2 + P)``: beside each its environment, and whether it is of each of the P that the batch has images of.

        Here, where reading a value makes no device wait, it is seen that they have equally many, and P is in the shape, for the step.

        Raises:
            ValueError: they have not.
        """
        inputs, labels, *added = default_collate(list(samples))
        if not added:
            return inputs, labels
        (environments,) = added
        present, counts = environments[environments != _OF_ALL].unique(return_counts=True)
        if len(set(counts.tolist())) != 1 or 2 * int(counts.sum()) != len(environments):
            all_counts = dict(zip(present.tolist(), counts.tolist(), strict=True))
            raise InputError(f"processes and micro-batches must get equally many images of each environment, got {all_counts}; make batch_size divisible")
        return inputs, torch.cat([labels[:, None], environments[:, None], environments[:, None] == present], -1)

    def trained(self, model: nn.Module) -> nn.Module:
        head = getattr(model, "head", None)
        if not isinstance(head, EnvironmentHeads) or not hasattr(model, "streams"):
            raise InputError(f"CausalLearning trains networks with causal streams, such as fov_caam_resnet18, got {type(model).__name__}")
        if head.num_environments != self.environments:
            options = f"--model.options.num-environments {self.environments}"
            raise InputError(f"the network has heads for {head.num_environments} environments, the task has {self.environments}; give {options}")
        return _Apart(model)

    def step(self, model: nn.Module, forward: Callable[..., Any], inputs: Any, targets: Any, bundle: DataBundle) -> tuple[Tensor, dict[str, Any]]:
        labels, environments = targets[:, 0], targets[:, 1]
        # those of all data come first, as many as all others, and then each environment's, as many of each, in the order of the batch
        shared, grouped = environments.argsort(stable=True).chunk(2)
        places = grouped.chunk(targets.shape[1] - 2)
        mixed, wanted = Classification(mixup=self.mixup).mix(inputs[shared], labels[shared], len(bundle.classes))
        *apart, of_all = forward([*(inputs[place] for place in places), mixed])
        streams = Streams(*(torch.cat(parts) for parts in zip(*apart, strict=True)))
        heads: Any = model.head
        loss = loss_of_known(heads, streams, labels[grouped], environments[grouped], lam_rel=self.lam_rel, mixed=(of_all.mixture, wanted))
        with torch.no_grad():
            answers = heads(torch.cat([streams.causal, of_all.causal])).argmax(-1)
        return loss, {"accuracy": (answers == torch.cat([labels[grouped], labels[shared]])).sum()}

    # -- as in ordinary classification -----------------------------------------------------------------------------------------------------------

    def metrics(self, bundle: DataBundle) -> MetricCollection:
        return Classification().metrics(bundle)

    def update(self, metrics: MetricCollection, outputs: Any, targets: Any) -> None:
        Classification().update(metrics, outputs, targets)

    def per_sample(self, outputs: Any, targets: Any) -> Tensor | None:
        return Classification().per_sample(outputs, targets)

    def chance(self, bundle: DataBundle) -> float | None:
        return Classification().chance(bundle)


class _Apart(nn.Module):
    """Several batches through a network's streams, each by itself, in one call: that is how processes share gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, groups: list[Tensor]) -> list[Streams]:
        streams: Any = self.model.streams
        return [streams(group) for group in groups]


class EnvironmentWalk:
    """Equally many samples of each environment, and as many of all data, in an order of which every piece that processes may take has the same shares.

    A sample comes with its environment, or −1 where it was drawn from all data.

    Args:
        environments: of each sample, ``(N,)``. One without samples is left out, and the batch smaller.
        num_environments: E, with those without samples.
        batch_size: of a step, if none is left out: a multiple of 2 E.
        seed: of the order.

    Raises:
        ValueError: another batch size.
    """

    def __init__(self, environments: Tensor, num_environments: int, batch_size: int, seed: int) -> None:
        if batch_size % (2 * num_environments):
            raise InputError(
                f"a batch has images of {num_environments} environments and as many of all data: expected batch_size a multiple of {2 * num_environments}, "
                f"got {batch_size}"
            )
        self._environments, self._each, self._seed = environments, batch_size // (2 * num_environments), seed
        self._present = environments.unique().tolist()
        self._length = math.ceil(int(environments.bincount().max()) / self._each)
        self._epoch = lru_cache(maxsize=2)(self._drawn)

    def batch(self, step: int) -> list[tuple[int, ...]]:
        epoch, within = divmod(step, self._length)
        grouped, everyone = self._epoch(epoch)[within]
        turns = grouped.view(len(self._present), self._each).mT.tolist()
        shared = everyone.view(self._each, len(self._present)).tolist()
        found = [pair for own, others in zip(turns, shared, strict=True) for pair in [*zip(own, self._present, strict=True), *((i, _OF_ALL) for i in others)]]
        # a number for each draw, so that a sample that is repeated is drawn anew
        return [(step * len(found) + n, index, environment) for n, (index, environment) in enumerate(found)]

    def _drawn(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        return list(environment_batches(self._environments, self._each, seed=seed_of(self._seed, "environments", epoch)))
