"""What comes out of each layer of somebody's tower. One entry of ``TOWERS`` a library.

Shapes     B images, N tokens with those in front of the grid, M patches, C channels
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ..._registry import Registry
from ...convert._layouts import said_by

__all__ = ["TOWERS", "Seen", "read_tower"]


@dataclass(frozen=True)
class Seen:
    """What a tower made of images."""

    layers: list[Tensor]
    """Behind each layer, before the last norm, ``(B, N, C)``; the embeddings are no layer."""
    patches: Tensor
    """Behind the last norm, without what stands in front of the grid, ``(B, M, C)``."""
    prefix: Tensor | None = None
    """Behind the last norm, what stands in front of the grid, the class token first, ``(B, K, C)``; None where it is not said."""


TOWERS: Registry[Callable[[Any, Tensor], Seen]] = Registry("library of towers")
"""By the package that a tower's class comes from, how it is run."""


def read_tower(tower: nn.Module, images: Tensor) -> Seen:
    """Run a tower once.

    Args:
        tower: a vision transformer of timm or transformers, without a head.
        images: ``(B, 3, H, W)``.

    Raises:
        ValueError: a tower of another library, or one that does not say its layers.
    """
    library = next((cls.__module__.partition(".")[0] for cls in type(tower).__mro__ if cls.__module__.partition(".")[0] in TOWERS), "")
    if not library:
        where = f"{type(tower).__module__}.{type(tower).__qualname__}"
        raise InputError(f"{where} is no tower whose layers can be read; give one of {', '.join(TOWERS)}, or add its library to TOWERS")
    return TOWERS[library](tower, images)


def _timm(tower: Any, images: Tensor) -> Seen:
    if not hasattr(tower, "forward_intermediates") or not isinstance(getattr(tower, "num_prefix_tokens", None), int):
        raise InputError(f"{type(tower).__name__} of timm is no vision transformer whose layers are tokens; give one, such as vit_small_patch16_224")
    last, layers = tower.forward_intermediates(images, norm=False, output_fmt="NLC", return_prefix_tokens=True)
    whole = [one if isinstance(one, Tensor) else torch.cat([one[1], one[0]], dim=1) for one in layers]
    return Seen(whole, last[:, tower.num_prefix_tokens :], last[:, : tower.num_prefix_tokens])


def _transformers(tower: Any, images: Tensor) -> Seen:
    prefix = said_by(tower).prefix
    if prefix is None:
        raise InputError(f"{type(tower).__name__} of transformers is no tower of images of one size; give one, such as SiglipVisionModel or Dinov2Model")
    out = tower(pixel_values=images, output_hidden_states=True)
    layers = out.hidden_states[1:]
    if len(layers) != tower.config.num_hidden_layers:
        raise InputError(f"{type(tower).__name__} gave {len(layers)} hidden states behind the embeddings, and has {tower.config.num_hidden_layers} layers")
    return Seen(list(layers), out.last_hidden_state[:, prefix:], out.last_hidden_state[:, :prefix])


TOWERS.add("timm", _timm)
TOWERS.add("transformers", _transformers)
