"""Attention maps out of a whole model, and how much of them lies on a region."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from ..attention import TokenAttention

__all__ = ["attention_maps", "mass_on", "patch_mask"]

Maps = dict[str, dict[str, Tensor]]


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> Maps:
    """The maps of every Foveal attention in the model for these images, by layer, each ``(B, H, Nq, Nk)``.

    Fused kernels do not hide them: each attention is shown its own input again and computes its maps in the open. The model runs in evaluation mode and is
    left in the mode it was in.

    Raises:
        ValueError: the model has no Foveal attention.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, TokenAttention)}
    if not layers:
        raise InputError("the model has no Foveal attention, so there are no maps to show; build it with one, for example attn_layer=foveal.SoftmaxAttention")
    seen: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[name] = (args, kwargs)

        return hook

    handles = [module.register_forward_pre_hook(remember(name), with_kwargs=True) for name, module in layers.items()]
    try:
        with _evaluating(model):
            model(images)
            return {name: layers[name].attention_map(*args, **kwargs) for name, (args, kwargs) in seen.items()}
    finally:
        for handle in handles:
            handle.remove()


def patch_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches of the grid a pixel mask ``(…, H, W)`` touches, ``(…, grid_h · grid_w)`` bool."""
    height, width = mask.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise InputError(f"a mask of {height}×{width} pixels does not fall into {grid[0]}×{grid[1]} patches")
    return mask.unflatten(-1, (grid[1], -1)).unflatten(-3, (grid[0], -1)).any(-1).any(-2).flatten(-2)


def mass_on(attention: Tensor, region: Tensor) -> Tensor:
    """Share of the attention that lies on a region, ``(…)``.

    Args:
        attention: rows over the patches, ``(…, N)``; prefix tokens left out. Entries may be negative, as those of a combined map.
        region: bool, broadcastable to ``attention``.

    Returns:
        Sum on the region over the sum of magnitudes everywhere: from 0 to 1 for an ordinary map, from −1 to 1 for a signed one. Looking everywhere alike
        gives the region's share of the patches.
    """
    total = attention.abs().sum(-1).clamp_min(torch.finfo(attention.dtype).tiny)
    return (attention * region).sum(-1) / total


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
