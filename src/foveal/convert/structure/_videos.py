"""Inputs made up for towers that take patches of images and videos one behind the other, and are told the grid of each."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["packed_inputs"]


def packed_inputs(model: nn.Module, names: list[str], like: Tensor) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Two images of 4 × 8 patches, flat and as maps, by the first layer that takes them; nothing where no grid is asked for."""
    grid = next((name for name in names if name.endswith(("grid_thw", "grid_thws", "grid_hws"))), "")
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear))]
    first = next((layer for layer in layers if not isinstance(layer, nn.Linear)), layers[0] if layers else None)
    if not grid or first is None:
        return
    images = torch.tensor([[1, 4, 8], [1, 4, 8]] if not grid.endswith("hws") else [[4, 8], [4, 8]], device=like.device)
    shape = first.weight.shape[1:]
    for form in dict.fromkeys([(shape.numel(),), tuple(shape)]):
        patches = torch.randn(64, *form, device=like.device, dtype=like.dtype)
        given = {names[0]: patches, grid: images}
        yield (), given | ({"merge_sizes": torch.tensor([2, 2], device=like.device)} if "merge_sizes" in names else {})
