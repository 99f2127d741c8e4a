"""Learning over environments (CaaM): the loss, the environments themselves, and how they are learned.

Paper      Wang et al., "Causal Attention for Unbiased Visual Recognition", ICCV 2021 (arXiv 2108.08782).
Official   Wangt-CN/CaaM
Formula    loss       mean_e CE(W_e c, y)  +  λ R(W)  +  CE(W_x u + b, y)
           variance   R = mean_e (‖W_e − W̄‖ / ‖W_e‖₁)²,  λ = λ_rel · K · C, so that λ R does not depend on the size of the heads
           partition  the split of the data that makes a classifier on the complement s least the same everywhere: maximize over assignments w
                      mean_e Σ_i w_ie CE_i + 10⁶ mean_e ‖Σ_i w_ie (p_i − y_i) ⊙ o_i‖²,  o the classifier's logits and p their softmax
Differs    The paper writes IRM's gradient penalty into the loss; the code that was released penalizes the variance of the heads, and so do we. The gradient
           penalty is in the partition alone, in closed form: the logits are fixed there, so nothing need pass through the network.
           The official assignment is optimized by SGD with a step set by one noisy batch: the file that was shipped has entries of 10¹⁵, and two environments
           with 92 % of the images. Ours is by Adam on all samples at once, with a floor under the size of an environment.
           The official partition is indexed by the order in which a folder happens to be listed. Ours is by file name.
Note       R has no scale, so heads grow while they are tied; at the authors' λ they are one head within some tens of steps.
           What the partition maximizes is largest for a small environment of mistakes that are alike, not for a split that was planted in the data: with
           enough steps it ends at the floor. Few steps and the floor are what keeps environments large.

Shapes     N samples, E environments, K classes, C width of the features
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError
from ..._files import parse_json
from ...models.caam import EnvironmentHeads, Streams

__all__ = [
    "LAM_REL",
    "Partition",
    "PartitionReport",
    "complement_logits",
    "environment_batches",
    "environment_gradients",
    "environment_loss",
    "learn_partition",
    "partition_objective",
    "random_partition",
    "weight_variance",
]

LAM_REL = {"nico_resnet18": 97.7, "nico_t2t_vit_7": 19.5, "imagenet9_resnet18": 10.9, "imagenet9_t2t_vit_7": 21.7}
"""λ / (K · C) of the authors' four configurations."""

GRADIENT_WEIGHT = 1e6
"""Of the gradients in what the partition maximizes."""


# -- the loss ------------------------------------------------------------------------------------------------------------------------------------


def weight_variance(weight: Tensor) -> Tensor:
    """How far the heads of environments lie apart, a scalar: 0 for equal heads, the same for all multiples of them.

    Args:
        weight: ``(E, K, C)``. For independent random heads the result is near ``(1 − 1 / E) · (π / 2) / (K · C)``.
    """
    apart = (weight - weight.mean(0)).square().sum((-2, -1))
    return (apart / weight.abs().sum((-2, -1)).square()).mean()


def environment_loss(
    heads: EnvironmentHeads,
    streams: Streams,
    labels: Tensor,
    environments: Tensor,
    *,
    lam_rel: float = LAM_REL["nico_resnet18"],
    mixed: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The training loss, a scalar.

    Args:
        heads: classifiers.
        streams: features, each ``(B, C)``.
        labels: ``(B,)``.
        environments: of each sample, ``(B,)``, from 0. Every environment that occurs counts the same, whatever its share of the batch.
        lam_rel: weight of the variance, see :data:`LAM_REL`.
        mixed: mixture features and labels of another batch, drawn from all data; those of this batch if None.

    Raises:
        ValueError: an environment that has no head.
    """
    if environments.numel() and not 0 <= int(environments.min()) <= int(environments.max()) < heads.num_environments:
        raise InputError(f"there are heads for environments 0 to {heads.num_environments - 1}, got {environments.unique().tolist()}")
    return loss_of_known(heads, streams, labels, environments, lam_rel=lam_rel, mixed=mixed)


def loss_of_known(
    heads: EnvironmentHeads, streams: Streams, labels: Tensor, environments: Tensor, *, lam_rel: float, mixed: tuple[Tensor, Tensor] | None
) -> Tensor:
    """:func:`environment_loss` of environments that are known to have heads, which makes no device wait."""
    each = F.cross_entropy(heads.of_environment(streams.causal, environments), labels, reduction="none")
    counts = (environments[:, None] == torch.arange(heads.num_environments, device=environments.device)).sum(0)
    of_causal = (each / counts[environments]).sum() / (counts > 0).sum()
    mixture, mixture_labels = (streams.mixture, labels) if mixed is None else mixed
    num_classes, dim = heads.weight.shape[1:]
    return of_causal + lam_rel * num_classes * dim * weight_variance(heads.weight) + F.cross_entropy(heads.mixture(mixture), mixture_labels)


def environment_batches(environments: Tensor, per_environment: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: indices with as many samples of each environment, and as many indices drawn from all data.

    The epoch is as long as the largest environment; small ones repeat. An environment without samples is left out.

    Args:
        environments: of each sample, ``(N,)``.
        per_environment: samples of each in a batch.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    members = [(environments == e).nonzero().flatten() for e in range(int(environments.max()) + 1)]
    members = [indices[torch.randperm(len(indices), generator=generator)] for indices in members if len(indices)]
    everyone = torch.randperm(len(environments), generator=generator)
    size = per_environment * len(members)
    for step in range(math.ceil(max(map(len, members)) / per_environment)):
        at = torch.arange(step * per_environment, (step + 1) * per_environment)
        grouped = torch.cat([indices[at % len(indices)] for indices in members])
        yield grouped, everyone[torch.arange(step * size, (step + 1) * size) % len(everyone)]


# -- the partition -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    """An environment for each sample, by name: a file name, or whatever stays the same on another machine."""

    environments: dict[str, int]

    def of(self, names: Sequence[str]) -> Tensor:
        """Environments in the order of ``names``, ``(N,)``.

        Raises:
            ValueError: a name that the partition does not have.
        """
        if missing := [name for name in names if name not in self.environments]:
            raise InputError(f"the partition has no environment for {len(missing)} of {len(names)} samples, {missing[0]!r} first; learn it on this data")
        return torch.tensor([self.environments[name] for name in names])

    @property
    def sizes(self) -> list[int]:
        """Samples in each environment."""
        counts = Counter(self.environments.values())
        return [counts[e] for e in range(max(counts, default=-1) + 1)]

    def to_json(self) -> str:
        return json.dumps(self.environments, indent=0, sort_keys=True) + "\n"

    def save(self, path: Path) -> None:
        path.write_text(self.to_json(), encoding="utf8")

    @staticmethod
    def load(path: Path) -> "Partition":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: there is no such file, or it holds something else.
        """
        try:
            values = parse_json(path.read_text(encoding="utf8"), "its text")
        except OSError as error:
            raise InputError(f"cannot read a partition from {path}: {error.strerror}") from None
        except ValueError as error:
            raise InputError(f"{path} is no partition: {error}") from None
        if not isinstance(values, dict) or not all(isinstance(e, int) and e >= 0 for e in values.values()):
            raise InputError(f"{path} is no partition: expected an object of names and numbers of environments")
        return Partition(values)


@dataclass(frozen=True)
class PartitionReport:
    """What was found: the objective of the partition, of a random one, and the sizes of the environments before and after the floor."""

    objective: float
    random_objective: float
    sizes: list[int]
    sizes_before_floor: list[int]


def environment_gradients(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Gradient of each environment's cross-entropy with respect to a factor on each class's logit, at 1; ``(E, K)``.

    Args:
        logits: of a fixed classifier, ``(N, K)``.
        labels: ``(N,)``.
        weights: of each sample in each environment, ``(N, E)``, columns that sum to one.
    """
    residual = logits.softmax(-1) - F.one_hot(labels, logits.shape[-1])
    return weights.mT @ (residual * logits)


def partition_objective(logits: Tensor, labels: Tensor, assignment: Tensor, *, gradient_weight: float = GRADIENT_WEIGHT) -> Tensor:
    """What a partition is to make large, a scalar; ``assignment`` is ``(N, E)``, one-hot or soft. An environment without samples adds nothing."""
    weights = assignment / assignment.sum(0).clamp_min(1e-20)
    risk = weights.mT @ F.cross_entropy(logits, labels, reduction="none")
    gradients = environment_gradients(logits, labels, weights)
    return risk.mean() + gradient_weight * gradients.square().sum(-1).mean()


def random_partition(names: Sequence[str], num_environments: int, *, seed: int) -> Partition:
    """Environments of equal size, but for one sample, at random. The arm that every claim about learned environments needs."""
    _check_partition(names, num_environments, 0)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    environments = (torch.arange(len(names)) % num_environments)[order]
    return Partition(dict(zip(names, environments.tolist(), strict=True)))


@torch.enable_grad()
def learn_partition(
    logits: Tensor,
    labels: Tensor,
    names: Sequence[str],
    num_environments: int = 4,
    *,
    epochs: int = 100,
    lr: float = 0.1,
    gradient_weight: float = GRADIENT_WEIGHT,
    min_size: int | None = None,
    seed: int = 0,
) -> tuple[Partition, PartitionReport]:
    """Split the data so that a classifier on the complement is as unequal as can be among environments.

    Hard assignments are drawn by Gumbel-softmax from free logits per sample, which Adam moves; the best assignment that was seen is kept.

    Args:
        logits: of a classifier fitted to the complement of each sample, ``(N, K)``; fixed here.
        labels: ``(N,)``.
        names: of the samples.
        num_environments: E.
        epochs: steps, each on all samples.
        lr: of Adam.
        gradient_weight: of the gradients in the objective.
        min_size: least samples of an environment; a tenth of its equal share if None. Those nearest to going there are moved from the largest.
        seed: of the start and the draws.

    Returns:
        The partition, and what is to be known of it.

    Raises:
        ValueError: sizes that do not fit each other, names that occur twice, or logits that are not finite.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(names) != len(labels) or not logits.isfinite().all():
        raise InputError(f"expected finite logits (N, K) with N labels and names, got {tuple(logits.shape)}, {tuple(labels.shape)} and {len(names)} names")
    min_size = len(labels) // (10 * max(num_environments, 1)) if min_size is None else min_size
    _check_partition(names, num_environments, min_size)
    generator = torch.Generator().manual_seed(seed)
    logits, labels = logits.detach().double().cpu(), labels.cpu()

    def value(assignment: Tensor) -> Tensor:
        return partition_objective(logits, labels, assignment, gradient_weight=gradient_weight)

    def drawn() -> Tensor:
        noise = -torch.rand(theta.shape, generator=generator, dtype=theta.dtype).clamp_min(1e-12).log()
        soft = (theta.log_softmax(-1) - noise.log()).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), num_environments).to(soft)
        # straight through: the value of the draw, the gradient of its probabilities
        return hard + soft - soft.detach()

    theta = torch.randn(len(labels), num_environments, generator=generator, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=lr)
    chance = value(F.one_hot(theta.argmax(-1), num_environments).double()).item()
    best, kept = chance, theta.detach().clone()
    for _ in range(epochs):
        objective = value(drawn())
        optimizer.zero_grad()
        # Adam does not see the size of its gradient, but 10⁶ squared would leave its float range of comfort
        (-objective / max(abs(chance), 1e-12)).backward()
        optimizer.step()
        reached = value(F.one_hot(theta.detach().argmax(-1), num_environments).double()).item()
        if reached > best:
            best, kept = reached, theta.detach().clone()
    before = kept.argmax(-1)
    environments = _with_floor(kept, min_size)
    found = value(F.one_hot(environments, num_environments).double()).item()
    sizes, sizes_before = (e.bincount(minlength=num_environments).tolist() for e in (environments, before))
    return Partition(dict(zip(names, environments.tolist(), strict=True))), PartitionReport(found, chance, sizes, sizes_before)


@torch.enable_grad()
def complement_logits(features: Tensor, labels: Tensor, num_classes: int, *, steps: int = 200, lr: float = 0.05) -> Tensor:
    """Logits ``(N, K)`` of a linear classifier that is fitted to features ``(N, C)``, standardized, by Adam on all at once.

    It starts from torch's random numbers.
    """
    classifier = nn.Linear(features.shape[1], num_classes)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr)
    features = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(classifier(features), labels).backward()
        optimizer.step()
    return classifier(features).detach()


def _check_partition(names: Sequence[str], num_environments: int, min_size: int) -> None:
    if num_environments < 1 or min_size * num_environments > len(names):
        raise InputError(f"{len(names)} samples cannot be split in {num_environments} environments of at least {min_size}")
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(f"names must tell samples apart, {twice!r} occurs more than once")


def _with_floor(theta: Tensor, min_size: int) -> Tensor:
    """The best environment of each sample, samples moved to small ones from those that can spare them, the least unwilling first."""
    environments = theta.argmax(-1)
    for small in range(theta.shape[1]):
        while (lack := min_size - int((environments == small).sum())) > 0:
            sizes = environments.bincount(minlength=theta.shape[1])
            largest = int(sizes.argmax())
            members = (environments == largest).nonzero().flatten()
            unwilling = theta[members, largest] - theta[members, small]
            spare = min(lack, int(sizes[largest]) - min_size)
            environments[members[unwilling.topk(spare, largest=False).indices]] = small
    return environments
