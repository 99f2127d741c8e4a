"""Activation checkpoints while gradients by maps are asked for: what would be computed again is kept, for it would be computed again unwatched."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

__all__ = ["direct_checkpoints", "saved_as_it_is"]


def saved_as_it_is() -> AbstractContextManager[Any]:
    """What backward needs is saved here, whatever is outside: a checkpoint around it finds nothing to compute again."""
    return torch.autograd.graph.saved_tensors_hooks(_same, _same)


@contextmanager
def direct_checkpoints() -> Iterator[None]:
    """Reentrant checkpoints run their function without gradients and again in backward, where no gradient by a map can be had; here they just run it."""
    own = CheckpointFunction.__dict__.get("apply")
    CheckpointFunction.apply = staticmethod(_run)
    try:
        yield
    finally:
        if own is None:
            del CheckpointFunction.apply
        else:
            CheckpointFunction.apply = own


def _run(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
    return function(*args)


def _same(x: Tensor) -> Tensor:
    return x
