"""Maps over the image, gathered: of every layer that has them, as who reads the model looks, without keeping whole maps."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ...analysis import attention_maps, look_from, token_layout
from ...analysis.maps import between_tokens
from ...convert import Where
from ...models import VisionTransformer
from ._sheet import SheetMaps

__all__ = ["MapsOverImage", "class_token_maps", "maps_over_image"]

_AT_ONCE = 16
"""Images whose whole maps of a layer are in memory together."""


@dataclass
class MapsOverImage(SheetMaps):
    """The maps of one image of ``size`` ``(H, W)``; each of :attr:`layers` is ``(heads, grid_h, grid_w)``."""

    looks: dict[str, str] = field(default_factory=dict, init=False)
    """Who looks, by layer."""

    @property
    def caption(self) -> str:
        """Who looks in the pictures; layers in which others do, by name."""
        kinds = list(self.looks.values())
        most = max(dict.fromkeys(kinds), key=kinds.count)
        others = [f"in {layer} {who}" for layer, who in self.looks.items() if who != most]
        return f"where {most} looks" + (f" ({', '.join(others)})" if others else "")

    def reduce(self, layer: str, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        combined = maps["combined"]
        try:
            if len(combined) != 1:
                raise InputError(f"{layer} attends in {len(combined)} windows, and not over the image")
            layout = token_layout(self.model, combined.shape[-1], self.size)
        except InputError as error:
            self.refused[layer] = error
            return {}
        self.looks[layer] = "the query of the pooling head" if combined.shape[-2] == 1 < combined.shape[-1] else layout.looks
        return {name: look_from(value, layout)[0].clone() for name, value in between_tokens(maps).items()}

    def nothing(self) -> str:
        return f"no layer has maps over the whole image: {next(iter(self.refused.values()), 'none ran')}"


def maps_over_image(model: nn.Module, inputs: Tensor, where: Where = "*") -> MapsOverImage:
    """Of any model.

    Args:
        model: in evaluation mode.
        inputs: one image, ``(1, C, H, W)``.
        where: which attentions.

    Raises:
        ValueError: no attention is chosen or seen; none is over the whole image.
    """
    return MapsOverImage(model, tuple(inputs.shape[-2:])).gather(inputs, where)


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
