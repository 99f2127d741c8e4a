"""Attentions with windows are told the grid of their tokens by the host, or by the user, never by a guess; and what an image makes of it is watched.

Tokens in other rows look the same: as many of them would be cut in the wrong windows, and nobody would see it.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from .._errors import InputError
from ..attention import AttentionConfig
from ..attention._grid import check_grid, grid_given, has_windows, set_grid, wants_grid, with_grid, without_grid
from ._host import Place
from ._layouts import Tokens, patch_convolution, tokens_of

__all__ = ["forget_grids", "told_of_grid", "watch_grids"]


def told_of_grid(config: AttentionConfig, place: Place, model: nn.Module, name: str) -> AttentionConfig:
    """The configuration for the tokens of a place, before anything is changed.

    Raises:
        ValueError: windows where there is no grid, or where neither the host nor the user says which; another grid than the host's.
    """
    if not wants_grid(config):
        return config
    if place.no_grid:
        return without_grid(config, place.no_grid)
    given = grid_given(config)
    if place.grid is None and given is not None:
        return config if place.num_prefix_tokens is None else with_grid(config, place.num_prefix_tokens, given)
    watched = place.grid_in_call or _watched(tokens_of(model, name)) is not None
    if place.num_prefix_tokens is None or (place.grid is None and not watched):
        raise InputError(
            f"{config.attention} attention cuts windows out of a grid, and {type(model).__name__} does not say how the tokens of {name} lie; that their number "
            "is a square says nothing: give the configuration grid_size=(rows, columns) and num_prefix_tokens"
        )
    told = set_grid(config, place.num_prefix_tokens, place.grid)
    # a square that nobody watches is not left to be read off the number of tokens
    return told if watched or place.grid is None else with_grid(told, place.num_prefix_tokens, place.grid)


class _Watch:
    """A forward hook of the convolution that cuts patches, whose map is the grid; or, with ``patch``, a hook of what is given the image."""

    def __init__(self, attention: nn.Module, patch: tuple[float, float] | None = None) -> None:
        self.attention, self.patch = attention, patch

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        shape = (output if self.patch is None else args[0]).shape[-2:]
        rows, columns = shape if self.patch is None else (int(side // pixels) for side, pixels in zip(shape, self.patch, strict=True))
        check_grid(self.attention, (rows, columns))


def watch_grids(model: nn.Module, attentions: Iterable[tuple[str, nn.Module]]) -> None:
    """Watch for those in windows, by the names of their places; a host with nothing to watch was told of its one grid."""
    for name, attention in attentions:
        if has_windows(attention) and (found := _watched(tokens_of(model, name))) is not None:
            module, patch = found
            module.register_forward_hook(_Watch(attention, patch))


def forget_grids(model: nn.Module) -> None:
    """Take all watches back."""
    for module in model.modules():
        for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, _Watch)]:
            del module._forward_hooks[key]


def _watched(tokens: Tokens) -> tuple[nn.Module, tuple[float, float] | None] | None:
    """Where the grid of an image can be seen: the convolution that cuts patches, or else what makes tokens of the image."""
    if tokens.owner is None:
        return None
    if (convolution := patch_convolution(tokens.owner)) is not None:
        return convolution, None
    embed = getattr(tokens.owner, "patch_embed", None)
    return (embed, tokens.patch) if isinstance(embed, nn.Module) and tokens.patch is not None else None
