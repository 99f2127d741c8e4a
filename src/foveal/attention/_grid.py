"""Attentions that look at a grid must be told it by their host: from a row of tokens they can only guess, and a wrong guess has the right shape."""

from typing import Any

from .._errors import InputError
from ._registry import AttentionConfig, config_from_dict

__all__ = ["on_grid", "without_grid"]


def on_grid(config: AttentionConfig, num_prefix_tokens: int, grid: tuple[int, int] | None) -> AttentionConfig:
    """The configuration for tokens that are a grid behind ``num_prefix_tokens`` others; others than halo attention stay as they are.

    A square grid is left to be read off the number of tokens, so that the host may change its size.

    Raises:
        ValueError: the options name another grid.
    """
    if not _wants_grid(config):
        return config
    values = config.to_dict()
    options = values if "grid_size" in values else values["core_options"] or {}
    given = options.get("grid_size")
    if given is not None and tuple(given) != grid:
        raise InputError(f"grid_size={tuple(given)} is not the grid of this model, {grid or 'which changes with the image'}; leave it out, the model knows")
    place: dict[str, Any] = {"num_prefix_tokens": num_prefix_tokens, "grid_size": None if grid is None or grid[0] == grid[1] else grid}
    return config_from_dict(options | place if options is values else values | {"core_options": options | place})


def without_grid(config: AttentionConfig, where: str) -> AttentionConfig:
    """The configuration, for tokens that are no grid.

    Raises:
        ValueError: the attention needs one.
    """
    if _wants_grid(config):
        raise InputError(f"{config.attention} attention with windows needs the grid of one image, and there is none {where}; choose one without a grid there")
    return config


def _wants_grid(config: AttentionConfig) -> bool:
    return hasattr(config, "grid_size") or getattr(config, "core", None) == "halo"
