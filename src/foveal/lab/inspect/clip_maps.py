"""Maps of a network on videos, told apart by what they attend over: the patches of each frame, the frames of each patch, or all patches of all frames."""

import warnings
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...analysis import Layout, attention_maps, look_from
from ...analysis.maps import between_tokens
from ...convert import Where
from ...convert._layouts import Pooling, said_by

__all__ = ["ClipMaps", "maps_over_clip"]


@dataclass
class ClipMaps:
    """The maps of one clip of T frames, each of a grid of patches."""

    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By layer and name, over frames and patches, ``(heads, T, grid_h, grid_w)``; T is less where a patch is of several frames."""
    times: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Of layers that attend over time, who reads whom, a mean over patches, ``(heads, T, T)``."""
    looks: str = ""
    """Who looks in layers that attend over patches, in words."""
    refused: dict[str, str] = field(default_factory=dict)
    """Layers that attend over something else, and over what."""
    missing: dict[str, str] = field(default_factory=dict)
    """Layers whose maps could not be seen, and why."""


def maps_over_clip(model: nn.Module, inputs: Tensor, size: tuple[int, ...], where: Where = "*") -> ClipMaps:
    """Of any network on videos that says how large its patches are.

    Args:
        model: in evaluation mode.
        inputs: one clip, as the model takes it, with an axis for the batch.
        size: ``(C, T, H, W)`` of the clip.
        where: which attentions.

    Raises:
        ValueError: the model does not say how large its patches are; no attention is chosen or seen; none is over the clip.
    """
    said, (_, frames, high, wide) = said_by(model), size
    if said.patch is None:
        raise InputError(f"{type(model).__name__} does not say how large its patches are, so that its maps cannot be laid over frames")
    prefix, grid = said.prefix or 0, (int(high // said.patch[0]), int(wide // said.patch[1]))
    layout = Layout(prefix, grid, 0, said.pooling)
    found = ClipMaps()

    def reduce(layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        over = _over(layer, tuple(maps["combined"].shape), frames, prefix, prod(grid))
        named = between_tokens(maps)
        if over == "space":
            found.looks = layout.looks
            # copied, for a view would keep the whole map
            return {name: look_from(value, layout).transpose(0, 1).clone() for name, value in named.items()}
        if over == "time":
            found.times[layer] = {name: value.mean(0) for name, value in named.items()}
            return {name: value.mean(2).permute(1, 2, 0).unflatten(-1, grid).clone() for name, value in named.items()}
        if over == "both":
            found.looks = layout.looks
            return {name: _from_head(value[0], prefix, said.pooling).unflatten(-1, (-1, *grid)).clone() for name, value in named.items()}
        found.refused[layer] = over
        return {}

    with warnings.catch_warnings(), torch.no_grad():
        # what is missing is in the result
        warnings.filterwarnings("ignore", message=r"the maps of \d+ attentions that ran are missing")
        maps = attention_maps(model, inputs, where=where, reduce=reduce)
    found.layers = {layer: named for layer, named in maps.items() if named}
    found.missing = dict(maps.missing)
    if not found.layers:
        raise InputError(f"no layer has maps over a clip of {frames} frames in {grid[0]}×{grid[1]} patches: {next(iter(found.refused.items()), 'none ran')}")
    return found


def _over(layer: str, shape: tuple[int, ...], frames: int, prefix: int, patches: int) -> str:
    """``space``, ``time`` or ``both``, by how many rows of how many tokens there are; else what these are, in words."""
    rows, _, queries, tokens = shape
    each = (rows, tokens) == (frames, prefix + patches)
    along = (rows, tokens) == (patches, frames)
    if queries != tokens:
        return f"{queries} tokens read {tokens} others"
    if along and (not each or "temporal" in layer):
        return "time"
    if each:
        return "space"
    if rows == 1 and tokens > prefix and (tokens - prefix) % patches == 0:
        return "both"
    return f"{rows} rows of {tokens} tokens are neither the patches of a frame nor the frames of a patch"


def _from_head(maps: Tensor, prefix: int, pooling: Pooling | None) -> Tensor:
    """``(H, P + T·N, P + T·N)`` to where the head's token looks, over all patches, ``(H, T·N)``."""
    rows = maps[:, 0] if prefix and pooling in (None, "token") else maps[:, prefix:].mean(1)
    return rows[:, prefix:]
