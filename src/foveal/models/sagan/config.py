"""SAGAN for recipes: both networks, and what may stand in the place of its attention."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from ..._ranges import Range
from ...attention import FAMILIES, attention_class
from .._built import Remembers
from .._config import Arm, ModelConfig, register_model
from .discriminator import SAGANDiscriminator
from .generator import SAGANGenerator
from .mixer import NONE, list_gan_mixers

__all__ = ["SAGAN", "GeneratorDiscriminator"]

_ABOUT = {
    "sagan": "SAGAN's own layer: softmax attention with pooled keys and values",
    "external": "external attention with as many weights as SAGAN's layer",
    "denoising": "SAGAN's layer less λ times a second one of negative queries",
    "pointwise": "1×1 maps in its place: the weights without the mixing",
    NONE: "no attention",
}


class GeneratorDiscriminator(nn.Module, Remembers):
    """Two networks that are trained against each other.

    Args:
        generator: arguments of :class:`SAGANGenerator`, as ``G``.
        discriminator: of :class:`SAGANDiscriminator`, as ``D``.

    Shape:
        latents ``(B, Z)``, classes ``(B,)`` -> images, by the generator.
    """

    def __init__(self, generator: dict[str, Any], discriminator: dict[str, Any]) -> None:
        super().__init__()
        self.G = SAGANGenerator(**generator)
        self.D = SAGANDiscriminator(**discriminator)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, y)


@register_model
@dataclass(frozen=True, kw_only=True)
class SAGAN(ModelConfig):
    """Generator and discriminator of SAGAN for square images of 8, 16, 32, 64 or 128 pixels, with an attention in each."""

    targets: ClassVar[str] = "images"
    trained_as: ClassVar[str] = "a generator with its discriminator"
    about: ClassVar[str] = "a generative adversarial network"
    baseline: ClassVar[str] = "sagan"
    default_arms: ClassVar[tuple[str, ...]] = ("sagan", "none", "pointwise", "external", "external-slot", "denoising")
    rivals: ClassVar[dict[str, str]] = {"denoising": "sagan-wide"}
    ranges: ClassVar[Mapping[str, Range]] = {"z_dim": Range(at_least=1), "num_heads": Range(at_least=1), "width": Range(at_least=2)}

    attention: str = "sagan"
    """sagan, external, denoising, pointwise (a control without mixing) or none; or any other out of `foveal list`, in its own block."""
    options: dict[str, Any] | None = None
    """Options of the attention."""
    num_heads: int = 1
    """Of attentions of the registry."""
    width: int = 64
    """Unit of the widths; the published networks have 64."""
    z_dim: int = 128
    """Width of the latents."""
    attention_g: tuple[int, ...] | None = None
    """Blocks of the generator behind which the attention stands, counted from 1; the published one if None, none if empty."""
    attention_d: tuple[int, ...] | None = None
    """The same of the discriminator."""

    def build(self, *, img_size: int | tuple[int, int], in_chans: int, num_classes: int) -> nn.Module:
        common: dict[str, Any] = {
            "img_size": img_size,
            "in_chans": in_chans,
            "num_classes": num_classes,
            "width": self.width,
            "attention": self.attention,
            "options": self.options,
            "num_heads": self.num_heads,
        }
        return GeneratorDiscriminator({**common, "z_dim": self.z_dim, "places": self.attention_g}, {**common, "places": self.attention_d})

    def smoke_model(self) -> "SAGAN":
        return replace(self, width=8, z_dim=16)

    def arms(self) -> dict[str, Arm]:
        """Every attention that both networks take, external attention in which no pixels meet, and SAGAN's layer with the weights of denoising."""
        names = list_gan_mixers(batch_norm=self.attention_d == ())
        found = {name: Arm(name, _ABOUT.get(name) or FAMILIES[attention_class(name).family], replace(self, attention=name, options=None)) for name in names}
        slot = replace(self, attention="external", options={"normalization": "slot"})
        found["sagan-wide"] = Arm(
            "sagan-wide", "SAGAN's layer with wider values: as many weights as denoising", replace(self, options={"value_share": 13 / 16}, attention="sagan")
        )
        found["external-slot"] = Arm("external-slot", "external attention with a softmax over slots alone: pixels do not meet", slot)
        return found
