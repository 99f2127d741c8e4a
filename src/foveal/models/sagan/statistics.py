"""Which statistics of batch norm a generator draws with: the running ones, those of the batch that it draws, or those of many batches drawn for the purpose."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batch_statistics", "standing_statistics"]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm of a model in evaluation mode uses the statistics of its batch; the running ones stay as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(module.running_mean, module.running_var) for module in norms]
    for module in norms:
        module.running_mean = module.running_var = None
    try:
        yield
    finally:
        for module, (mean, variance) in zip(norms, kept, strict=True):
            module.running_mean, module.running_var = mean, variance


@torch.no_grad()
def standing_statistics(model: nn.Module, draw: Callable[[nn.Module, int], object], batches: int) -> nn.Module:
    """A copy of the model whose batch norms hold the mean statistics of so many batches, each drawn by ``draw(copy, number)``."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            # the mean of all, and no decaying one
            module.momentum = None
            module.train()
    for number in range(batches):
        draw(model, number)
    return model.eval()
