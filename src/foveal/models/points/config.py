"""Settings of point networks, for recipes: which attention, in the layers that the network has for it.

Shapes     B batch, N points, C channels
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..._errors import InputError
from ..._ranges import Range
from ...attention import FAMILIES, attention_class
from .._config import Arm, ModelConfig, register_model
from .grouping import conv_norm
from .mixer import LayerForm, PointMixer, list_point_mixers
from .pct import PCT, PCTParts, SimplePCT

__all__ = ["PartTransformer", "PointTransformer", "PointwiseParts"]

_ABOUT = {
    "offset": "offset attention, as in PCT",
    "none": "no attention: the layers map each point by itself",
    "pointwise": "one more map of each point in its place: the weights without the mixing",
}


@dataclass(frozen=True, kw_only=True)
class _Points(ModelConfig):
    """What all of them share."""

    baseline: ClassVar[str] = "none"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "offset", "external", "softmax", "denoising")
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("num_heads", "width", "npoints", "neighbors", "depth"), Range(at_least=1)),
        "drop_rate": Range(at_least=0, below=1),
    }

    attention: str = "offset"
    """Out of `foveal list`, on tokens; or offset (PCT's), none (no mixing), pointwise (its weights without mixing)."""
    form: LayerForm = "offset"
    """Whether a layer maps the difference between a point and what it gathered (offset), or what it gathered (plain)."""
    num_heads: int = 4
    """Of attentions of the registry."""
    options: dict[str, Any] | None = None
    """Options of the attention, as in its `Config`."""
    width: int = 64
    """Channels of the first maps; the published networks have 64."""

    def arms(self) -> dict[str, Arm]:
        """Every mixer in this layer, and external attention whose softmax is over slots alone, in which no points meet."""
        found = {name: Arm(name, _about(name), replace(self, attention=name, options=None)) for name in list_point_mixers()}
        # the option's old name: a comparison that was begun under it is to be resumed, and a recipe is known by its very words
        slot = replace(self, attention="external", options={"norm": "slot"})
        return found | {"external-slot": Arm("external-slot", "external attention with a softmax over slots alone: points do not meet", slot)}

    def _mixing(self) -> dict[str, Any]:
        return {"attention": self.attention, "form": self.form, "num_heads": self.num_heads, "options": self.options, "width": self.width}


def _about(name: str) -> str:
    return _ABOUT[name] if name in _ABOUT else FAMILIES[attention_class(name).family]


@register_model
@dataclass(frozen=True, kw_only=True)
class PointTransformer(_Points):
    """PCT, a label for a cloud."""

    targets: ClassVar[str] = "shapes"
    about: ClassVar[str] = "a point transformer"

    grouping: bool = True
    """Sample the cloud down twice, each sample with its neighborhood, before the layers; else every point goes through all of them."""
    npoints: tuple[int, int] = (512, 256)
    """Points that are left by the first and the second sampling."""
    neighbors: int = 32
    """Nearest points that make a neighborhood."""
    position: bool = True
    """Add an embedding of the coordinates inside every layer."""
    drop_rate: float = 0.5
    """Dropout in the head."""

    def build(self, *, in_channels: int, num_classes: int, num_points: int | None = None) -> nn.Module:  # type: ignore[override]
        """With ``num_points``, of a cloud, it is refused where that is fewer than are sampled, before any training.

        Raises:
            ValueError: clouds, or samples of them, with fewer points than are to be chosen.
        """
        if self.grouping and num_points is not None:
            first, second = self.npoints
            for have, wanted, what in ((num_points, first, "points of a cloud"), (first, second, "first samples")):
                least = max(wanted, self.neighbors)
                if have < least:
                    raise InputError(
                        f"{wanted} points with {self.neighbors} neighbors each are to be chosen among {have} {what}; "
                        f"give clouds of at least {least} points (data.num_points), or fewer npoints and neighbors, or grouping false"
                    )
        common: dict[str, Any] = {"in_channels": in_channels, "drop_rate": self.drop_rate, **self._mixing()}
        if not self.grouping:
            return SimplePCT(num_classes, **common)
        return PCT(num_classes, npoints=self.npoints, neighbors=self.neighbors, position=self.position, **common)

    def smoke_model(self) -> "PointTransformer":
        return replace(self, width=8, npoints=(32, 16), neighbors=8)


@register_model
@dataclass(frozen=True, kw_only=True)
class PartTransformer(_Points):
    """PCT for parts, a label for each point given the class of the cloud."""

    targets: ClassVar[str] = "parts"
    about: ClassVar[str] = "a point transformer for parts"

    drop_rate: float = 0.5
    """Dropout in the head."""

    def build(self, *, in_channels: int, num_classes: int, num_shapes: int) -> nn.Module:  # type: ignore[override]
        return PCTParts(num_classes, num_shapes, in_channels=in_channels, drop_rate=self.drop_rate, **self._mixing())

    def smoke_model(self) -> "PartTransformer":
        return replace(self, width=8)


@register_model
@dataclass(frozen=True, kw_only=True)
class PointwiseParts(_Points):
    """Layers in which points meet and nothing else: no pooling, no grouping. What a point knows of others it has through the attention."""

    targets: ClassVar[str] = "parts"
    about: ClassVar[str] = "a small network of points without pooling"
    default_arms: ClassVar[tuple[str, ...]] = ("none", "pointwise", "offset", "external", "external-slot", "softmax", "denoising")

    width: int = 32
    """Channels of the layers."""
    form: LayerForm = "plain"
    """Whether a layer maps the difference between a point and what it gathered (offset), or what it gathered (plain)."""
    depth: int = 3
    """Layers."""

    def build(self, *, in_channels: int, num_classes: int, num_shapes: int) -> nn.Module:  # type: ignore[override]
        mixing = self._mixing()
        return _Pointwise(in_channels, num_classes, mixing.pop("width"), self.depth, mixing)


class _Pointwise(nn.Module):
    """``(B, N, in_channels) -> (B, N, classes)``; the class of the cloud is not looked at."""

    def __init__(self, in_channels: int, num_classes: int, channels: int, depth: int, mixing: dict[str, Any]) -> None:
        super().__init__()
        self.embed = conv_norm(in_channels, channels)
        self.layers = nn.ModuleList(PointMixer(channels, **mixing) for _ in range(depth))
        self.fuse = conv_norm(depth * channels, 2 * channels)
        self.head = nn.Conv1d(2 * channels, num_classes, 1)

    def forward(self, x: Tensor, shape: Tensor | None = None) -> Tensor:
        x, seen = self.embed(x.mT), []
        for layer in self.layers:
            x = layer(x)
            seen.append(x)
        return self.head(self.fuse(torch.cat(seen, 1))).mT
