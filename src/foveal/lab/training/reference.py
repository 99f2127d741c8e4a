"""Environments from a network that was trained without any: what CaaM's authors begin with.

``reference_partition(run).save(file)`` writes them, for ``--task.first FILE``.
"""

from pathlib import Path

import torch

from ..._errors import InputError
from ..tasks import Partition, learn_partition
from ..tasks.causal_learning import names_of
from .batches import Samples
from .models import load_run

__all__ = ["reference_partition"]


def reference_partition(run: Path, num_environments: int = 4, *, epochs: int = 100, min_share: float = 0.1, seed: int = 0) -> Partition:
    """The split of a run's training set over which its own network, an ordinary classifier, is least the same.

    Args:
        run: folder of a finished run of ``Classification``.
        num_environments: E.
        epochs: of learning the split.
        min_share: least size of an environment, as a share of what equal ones would have.
        seed: of learning it.

    Raises:
        ValueError: no finished run, or one whose network gives no logits; see :func:`foveal.lab.tasks.learn_partition`.
    """
    recipe, bundle, model = load_run(run)
    if recipe.task.targets != "labels":
        raise InputError(f"expected the run of a classifier, got one of {type(recipe.task).__name__}: {run}")
    names = names_of(bundle.train)
    with torch.no_grad():
        seen = [(model(inputs).float(), labels) for inputs, labels in Samples(bundle.train, recipe, torch.device("cpu"))]
    logits, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    floor = int(min_share * len(names) / max(num_environments, 1))
    return learn_partition(logits, labels, names, num_environments, epochs=epochs, min_size=floor, seed=seed)[0]
