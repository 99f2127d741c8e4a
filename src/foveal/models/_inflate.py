"""Weights of an image model for a TimeSformer: space as it is there, time beginning as a copy that is not yet listened to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError
from .._weights import misfits
from ..attention import TokenAttention
from ._patches import take_positions
from .timesformer import DividedBlock, TimeSformer

__all__ = ["inflate_"]


@torch.no_grad()
def inflate_(
    model: TimeSformer,
    state_dict: Mapping[str, Tensor],
    *,
    grid: tuple[int, int] | None = None,
    copy_time: bool = True,
    copy_head: bool = False,
    warm_start: float = 1e-4,
) -> list[str]:
    """Fill a TimeSformer from an image model: space as it is there, time beginning as its copy that is not yet listened to.

    On a video that stands still ``divided_space_time`` and ``space_only`` then compute what the image model computes on the image, whatever the attention;
    ``joint_space_time`` does so for one frame, for repeated keys count repeatedly there.

    Args:
        model: changed in place, in all its weights or, on error, in none.
        state_dict: of timm's ``VisionTransformer``, with the attention that the model has in space. A plain softmax transformer also fills one with denoising
            attention: Q⁺, K, V⁺ and λ as in a fresh layer, Q⁻ and V⁻ from Q and V by ``warm_start``. Authors' files go through
            :func:`foveal.official.translate` first.
        grid: rows and columns of the checkpoint's patches, where its positions are those of neither the model's grid nor a square.
        copy_time: copy norm and attention of space into time, as the paper does. If not, time keeps what it has; needed where the two attentions differ.
        copy_head: copy the classifier. If not, the model keeps its own: a video model has other classes.
        warm_start: the factor α in W_Q⁻ = α·W_Q and W_V⁻ = α·W_V. The published start is 1e-4; at 0 the function of the image model is kept exactly.

    Returns:
        Names of the parameters that hold nothing of the checkpoint.

    Raises:
        ValueError: keys that are missing or left over, shapes that do not fit, positions of an unknown grid.
    """
    wanted = model.state_dict()
    source = dict(state_dict)
    weights = take_positions(model, source, grid)
    kept = {key: value for key, value in wanted.items() if key.startswith("head.") and not copy_head}
    if not copy_head:
        source = {key: value for key, value in source.items() if not key.startswith("head.")}
    if model.time_embed is not None:
        kept["time_embed"] = torch.zeros_like(model.time_embed)
    for depth, block in enumerate(model.blocks):
        prefix = f"blocks.{depth}."
        attention = {key.removeprefix(f"{prefix}attn."): source.pop(key) for key in list(source) if key.startswith(f"{prefix}attn.")}
        places: dict[str, Any] = {"attn.": block.attn}
        if isinstance(block, DividedBlock):
            kept |= {f"{prefix}temporal_fc.{key}": torch.zeros_like(value) for key, value in block.temporal_fc.state_dict().items()}
            if copy_time:
                places["temporal_attn."] = block.temporal_attn
                source |= {key.replace("norm1", "temporal_norm1"): value for key, value in source.items() if key.startswith(f"{prefix}norm1.")}
            else:
                kept |= {key: value for key, value in wanted.items() if key.startswith((f"{prefix}temporal_attn.", f"{prefix}temporal_norm1."))}
        for place, module in places.items():
            weights |= {prefix + place + key: value for key, value in _attention(attention, module, warm_start).items()}
    weights |= source | kept

    if problems := misfits(weights, wanted):
        remedy = "an authors' layout goes through foveal.official.translate first; where time has another attention than space, give copy_time=False"
        raise InputError(f"the checkpoint does not fit this TimeSformer: {problems}; {remedy}")
    model.load_state_dict(weights)
    return [key for key in wanted if key in kept]


def _attention(source: dict[str, Tensor], module: nn.Module, warm_start: float) -> dict[str, Tensor]:
    """The weights of one attention: the source's, and what the attention makes of those of softmax."""
    return module.weights_from_softmax(source, warm_start) if isinstance(module, TokenAttention) else source
