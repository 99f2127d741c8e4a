"""Attentions that look at a grid must be told it by their host: from a row of tokens they can only guess, and a wrong guess has the right shape."""

from typing import Any

from torch import nn

from .._errors import InputError
from .._fx import checking
from ._registry import AttentionConfig, config_from_dict
from .halo import HaloCore

__all__ = ["check_grid", "grid_given", "has_windows", "set_grid", "set_grid_", "wants_grid", "with_grid", "without_grid"]


def set_grid(config: AttentionConfig, num_prefix_tokens: int, grid: tuple[int, int] | None) -> AttentionConfig:
    """The configuration for tokens that are a grid behind ``num_prefix_tokens`` others; others than halo attention stay as they are.

    A square grid is left to be read off the number of tokens, so that the host may change its size.

    Raises:
        ValueError: the options name another grid.
    """
    if not wants_grid(config):
        return config
    given = grid_given(config)
    if given is not None and given != grid:
        raise InputError(f"grid_size={given} is not the grid of this model, {grid or 'which changes with the image'}; leave it out, the model knows")
    return with_grid(config, num_prefix_tokens, _not_square(grid))


def grid_given(config: AttentionConfig) -> tuple[int, int] | None:
    """The grid that a configuration names."""
    options = config.to_dict()
    given = (options if "grid_size" in options else options.get("core_options") or {}).get("grid_size")
    return None if given is None else (given[0], given[1])


def with_grid(config: AttentionConfig, num_prefix_tokens: int, grid: tuple[int, int] | None) -> AttentionConfig:
    """The configuration with this grid, whatever it named before; None for any square."""
    values = config.to_dict()
    place: dict[str, Any] = {"num_prefix_tokens": num_prefix_tokens, "grid_size": grid}
    return config_from_dict(values | place if "grid_size" in values else values | {"core_options": (values["core_options"] or {}) | place})


def without_grid(config: AttentionConfig, where: str) -> AttentionConfig:
    """The configuration, for tokens that are no grid.

    Raises:
        ValueError: the attention needs one.
    """
    if wants_grid(config):
        raise InputError(f"{config.attention} attention with windows needs the grid of one image, and there is none {where}; choose one without a grid there")
    return config


def has_windows(attention: object) -> bool:
    """Whether an attention, or None, cuts windows out of a grid."""
    return isinstance(getattr(attention, "core", None), HaloCore)


@checking
def check_grid(attention: object, grid: tuple[int, int]) -> None:
    """Refuse a grid that an attention with windows does not know of; as many tokens in other rows would be cut in the wrong windows without a word.

    Raises:
        ValueError: another grid than the attention was told of; one that is no square where it was told of none.
    """
    if not has_windows(attention):
        return
    told: tuple[int, int] | None = attention.core.grid_size  # type: ignore[attr-defined]
    if (grid[0] != grid[1]) if told is None else (tuple(told) != tuple(grid)):
        known = "a square grid" if told is None else f"a grid of {told[0]}×{told[1]}"
        raise InputError(
            f"attention in windows expects {known} of tokens, and this image makes {grid[0]}×{grid[1]}; "
            "crop or resize the images, or build the model for images of their size"
        )


def set_grid_(module: nn.Module, grid: tuple[int, int]) -> None:
    """Tell all attentions with windows in ``module`` that their tokens are another grid now."""
    for part in module.modules():
        if isinstance(part, HaloCore):
            part.grid_size = _not_square(grid)


def _not_square(grid: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if grid is None or grid[0] == grid[1] else grid


def wants_grid(config: AttentionConfig) -> bool:
    """Whether a configuration is of an attention that cuts windows out of a grid."""
    return hasattr(config, "grid_size") or getattr(config, "core", None) == "halo"
