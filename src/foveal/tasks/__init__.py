"""Tasks: one file each, saying what a batch is, the loss and the metric."""

from .classification import Classification

__all__ = ["Classification"]
