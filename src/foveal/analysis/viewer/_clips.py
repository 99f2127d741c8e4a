"""Attention in videos: over all patches of all frames, over those of a frame, or over the frames of a place.

Shapes     B sequences that a layer ran, H heads, T frames of tokens, P prefix tokens, h · w patches of a frame
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...convert._layouts import said_by
from ..layout import Layout
from .viewed import ViewedLayer, refuse_large, strengths_of

__all__ = ["clip_layer", "frame_layout", "frames_of"]


_ALIKE = 1e-4
"""Between what is read off the maps of two frames as λ of one head."""


def frames_of(model: nn.Module, clip: Tensor) -> Tensor:
    """``(T, C, H, W)`` of a video as the model takes it: frames first in transformers, else channels first."""
    return clip if hasattr(model, "config") else clip.transpose(0, 1)


def frame_layout(model: nn.Module, image_size: Sequence[int]) -> Layout:
    """The tokens of one frame.

    Raises:
        ValueError: the model does not say how large its patches are.
    """
    said = said_by(model)
    if said.patch is None:
        raise InputError(f"{type(model).__name__} does not say how large its patches are, so that the frames of a video cannot be told apart")
    rows, columns = (int(side / pixels) for side, pixels in zip(image_size, said.patch, strict=True))
    return Layout(said.prefix or 0, (rows, columns), said.suffix, said.pooling)


def clip_layer(name: str, maps: dict[str, Tensor], frame: Layout) -> ViewedLayer:
    """One layer of a model that saw a video.

    Raises:
        ValueError: its tokens are none of the three; more entries than a page takes.
    """
    combined = maps["combined"]
    batch, heads, queries, keys = combined.shape
    outside, patches = frame.num_prefix_tokens + frame.num_suffix_tokens, frame.grid[0] * frame.grid[1]
    refuse_large(combined)
    kept = {which: value.detach().float().cpu() for which, value in maps.items() if value.shape == combined.shape}
    # a video of as many frames as patches is told by the name alone
    over_time = batch == patches and queries == keys and (keys + outside != patches + outside * 2 or "tempor" in name)
    if over_time:
        kept = {which: value.transpose(0, 1).reshape(heads, patches * keys, keys) for which, value in kept.items()}
        found = ViewedLayer(name, kept, frame, frame, frames=keys, axis="time")
    elif queries == keys == outside + patches:
        kept = {which: value.reshape(batch * heads, queries, keys) for which, value in kept.items()}
        found = ViewedLayer(name, kept, frame, frame, frames=batch, axis="space" if batch > 1 else "all")
    elif batch == 1 and queries in (1, keys) and keys > outside and (keys - outside) % patches == 0:
        own = None if queries == 1 else frame
        found = ViewedLayer(name, {which: value[0].clone() for which, value in kept.items()}, own, frame, frames=(keys - outside) // patches)
    else:
        raise InputError(f"{batch} times {queries} tokens look at {keys}, which are no patches of frames of {frame.grid[0]}×{frame.grid[1]}")
    strengths = strengths_of(found.maps)
    if strengths is not None:
        by_head = torch.tensor(strengths, dtype=torch.float64).view(-1, heads)
        # where frames had their own, the combination is kept
        if (by_head - by_head[0]).abs().max() <= _ALIKE:
            found.lambdas = by_head[0].tolist()
            del found.maps["combined"]
    return found
