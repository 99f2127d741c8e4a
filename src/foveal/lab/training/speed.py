"""How the machine computes a run, which changes its numbers by rounding alone: what is left open is decided for the device, and kept in recipe.json."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn

from .recipe import Recipe

__all__ = ["channels_last", "channels_last_", "matmul_precision", "settled"]


def settled(recipe: Recipe, device: torch.device) -> tuple[Recipe, list[str]]:
    """With ``tf32`` and ``fused`` decided where they were left open: yes on CUDA, the latter where the optimizer has it. On other devices they stay open, which
    is no, so that a run on a processor repeats bit for bit; and what to say where one was asked for that the device does not know.
    """
    if device.type == "cuda":
        fused = recipe.optim.optimizer != "lamb" if recipe.fused is None else recipe.fused
        tf32 = True if recipe.tf32 is None else recipe.tf32
        return replace(recipe, tf32=tf32, fused=fused), []
    return recipe, [f"tf32 is of CUDA; on this {device.type} float32 stays float32"] if recipe.tf32 else []


@contextmanager
def matmul_precision(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Products of float32 matrices in TF32 within this, if the recipe says so; evaluation is outside, with products in whole float32. Convolutions follow
    ``torch.backends.cudnn.allow_tf32``, inside and outside.
    """
    if not recipe.tf32 or device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def channels_last_(model: nn.Module) -> None:
    """Weights of four axes with their channels last in memory. Those of five, as of convolutions of volumes, have no such form and stay."""
    for value in model.parameters():
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)


def channels_last(batch: Any) -> Any:
    """Images of a batch (B, C, H, W) with their channels last in memory, where there are any in it."""
    return recursively_apply(_moved, batch)


def _moved(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 and value.is_floating_point() else value
