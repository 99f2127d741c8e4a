"""Attentions with windows in a host whose images may change: what its patches make of an image is watched, since tokens in other rows look the same."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..attention._grid import check_grid, has_windows

__all__ = ["forget_grids", "watch_grids"]


class _Watch:
    """A forward hook of the convolution that cuts patches: its map is the grid."""

    def __init__(self, attention: nn.Module) -> None:
        self.attention = attention

    def __call__(self, patches: nn.Module, args: Any, output: Tensor) -> None:
        check_grid(self.attention, (output.shape[-2], output.shape[-1]))


def watch_grids(model: nn.Module, attentions: Iterable[tuple[str, nn.Module]]) -> None:
    """Watch for those in windows, by the names of their places; a host without a convolution that cuts patches has a grid of its own to answer for."""
    for name, attention in attentions:
        if has_windows(attention) and (patches := _patches_above(model, name)) is not None:
            patches.register_forward_hook(_Watch(attention))


def forget_grids(model: nn.Module) -> None:
    """Take all watches back."""
    for module in model.modules():
        for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, _Watch)]:
            del module._forward_hooks[key]


def _patches_above(model: nn.Module, name: str) -> nn.Conv2d | None:
    """The one convolution that cuts patches in the nearest module above that has any, as a tower may be part of a larger model."""
    above = name.split(".")
    for depth in range(len(above) - 1, -1, -1):
        owner = model.get_submodule(".".join(above[:depth]))
        found = [module for module in owner.modules() if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size != (1, 1)]
        if found:
            return found[0] if len(found) == 1 else None
    return None
