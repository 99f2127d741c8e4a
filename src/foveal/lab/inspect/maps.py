"""Maps over the image, gathered: of every layer that has them, as who reads the model looks, without keeping whole maps."""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...analysis import attention_maps, look_from, token_layout
from ...analysis.maps import between_tokens
from ...convert import Where
from ...models import VisionTransformer

__all__ = ["MapsOverImage", "class_token_maps", "maps_over_image"]

_AT_ONCE = 16
"""Images whose whole maps of a layer are in memory together."""


@dataclass
class MapsOverImage:
    """The maps of one image."""

    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By layer and name, ``(heads, grid_h, grid_w)``."""
    looks: dict[str, str] = field(default_factory=dict)
    """Who looks, by layer."""
    refused: dict[str, InputError] = field(default_factory=dict)
    """Layers that attend, and not over the image."""
    missing: dict[str, str] = field(default_factory=dict)
    """Layers whose maps could not be seen, and why."""

    @property
    def caption(self) -> str:
        """Who looks in the pictures; layers in which others do, by name."""
        kinds = list(self.looks.values())
        most = max(dict.fromkeys(kinds), key=kinds.count)
        others = [f"in {layer} {who}" for layer, who in self.looks.items() if who != most]
        return f"where {most} looks" + (f" ({', '.join(others)})" if others else "")


def maps_over_image(model: nn.Module, inputs: Tensor, where: Where = "*") -> MapsOverImage:
    """Of any model.

    Args:
        model: in evaluation mode.
        inputs: one image, ``(1, C, H, W)``.
        where: which attentions.

    Raises:
        ValueError: no attention is chosen or seen; none is over the whole image.
    """
    size = (inputs.shape[-2], inputs.shape[-1])
    found = MapsOverImage()

    def reduce(layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        combined = maps["combined"]
        try:
            if len(combined) != 1:
                raise InputError(f"{layer} attends in {len(combined)} windows, and not over the image")
            layout = token_layout(model, combined.shape[-1], size)
        except InputError as error:
            found.refused[layer] = error
            return {}
        found.looks[layer] = "the query of the pooling head" if combined.shape[-2] == 1 else layout.looks
        # copied, for a view would keep the whole map
        return {name: look_from(value, layout)[0].clone() for name, value in between_tokens(maps).items()}

    with warnings.catch_warnings():
        # what is missing is in the result
        warnings.filterwarnings("ignore", message=r"the maps of \d+ attentions that ran are missing")
        maps = attention_maps(model, inputs, where=where, reduce=reduce)
    found.layers = {layer: named for layer, named in maps.items() if named}
    found.missing = dict(maps.missing)
    if not found.layers:
        raise InputError(f"no layer has maps over the whole image: {next(iter(found.refused.values()))}")
    return found


def class_token_maps(model: VisionTransformer, images: Tensor) -> dict[str, dict[str, Tensor]]:
    """Where what the head reads looks, over the patches, by layer and map, ``(B, H, patches)``: the class token, or the mean of all patches without one.

    Whole maps are in memory of one layer and a few images at a time: what is kept grows with patches, not with their square.
    """
    tokens = model.num_prefix_tokens + model.patch_embed.num_patches
    layout = token_layout(model, tokens, tuple(images.shape[-2:]))

    def rows(layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        # copied, for a view would keep the whole map
        return {name: look_from(value, layout).flatten(-2).clone() for name, value in between_tokens(maps).items()}

    parts = [attention_maps(model, some, reduce=rows) for some in images.split(_AT_ONCE)]
    return {layer: {name: torch.cat([part[layer][name] for part in parts]) for name in maps} for layer, maps in parts[0].items()}
