"""Tasks: one file each, saying what a batch is, the loss and the metric."""

from .classification import Classification
from .environments import (
    Partition,
    environment_batches,
    environment_gradients,
    environment_loss,
    learn_partition,
    partition_objective,
    random_partition,
    weight_variance,
)

__all__ = [
    "Classification",
    "Partition",
    "environment_batches",
    "environment_gradients",
    "environment_loss",
    "learn_partition",
    "partition_objective",
    "random_partition",
    "weight_variance",
]
