"""Maps of a network on videos, told apart by what they attend over: the patches of each frame, the frames of each patch, or all patches of all frames."""

from dataclasses import dataclass, field
from math import prod

from torch import Tensor, nn

from ..._errors import InputError
from ...analysis import Layout, look_from
from ...analysis.maps import between_tokens
from ...convert import Where
from ...convert._layouts import Pooling, said_by
from ._sheet import SheetMaps

__all__ = ["ClipMaps", "maps_over_clip"]


@dataclass
class ClipMaps(SheetMaps):
    """The maps of one clip of ``size`` ``(C, T, H, W)``.

    Each of :attr:`layers` is over frames and patches, ``(heads, T, grid_h, grid_w)``; T is less where a patch is of several frames.

    Raises:
        ValueError: the model does not say how large its patches are.
    """

    times: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False)
    """Of layers that attend over time, who reads whom, a mean over patches, ``(heads, T, T)``."""
    looks: str = field(default="", init=False)
    """Who looks in layers that attend over patches, in words."""

    def __post_init__(self) -> None:
        said = said_by(self.model)
        if said.patch is None:
            raise InputError(f"{type(self.model).__name__} does not say how large its patches are, so that its maps cannot be laid over frames")
        grid = (int(self.size[2] // said.patch[0]), int(self.size[3] // said.patch[1]))
        self._layout = Layout(said.prefix or 0, grid, 0, said.pooling)

    def reduce(self, layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        layout, named = self._layout, between_tokens(maps)
        prefix, grid = layout.num_prefix_tokens, layout.grid
        over = _over(layer, tuple(maps["combined"].shape), self.size[1], prefix, prod(grid))
        if over == "space":
            self.looks = layout.looks
            return {name: look_from(value, layout).transpose(0, 1).clone() for name, value in named.items()}
        if over == "time":
            self.times[layer] = {name: value.mean(0) for name, value in named.items()}
            return {name: value.mean(2).permute(1, 2, 0).unflatten(-1, grid).clone() for name, value in named.items()}
        if over == "both":
            self.looks = layout.looks
            return {name: _from_head(value[0], prefix, layout.pooling).unflatten(-1, (-1, *grid)).clone() for name, value in named.items()}
        self.refused[layer] = over
        return {}

    def nothing(self) -> str:
        (rows, columns), why = self._layout.grid, next(iter(self.refused.items()), "none ran")
        return f"no layer has maps over a clip of {self.size[1]} frames in {rows}×{columns} patches: {why}"


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
    return ClipMaps(model, size).gather(inputs, where)


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
