"""PCT: networks of point clouds whose points meet in four layers.

Paper      Guo et al., "PCT: Point Cloud Transformer", 2021 (arXiv 2012.09688). With external attention in its layers it is the EAT of arXiv 2105.02358.
Official   MenghaoGuo/PCT (Jittor): ``Point_Transformer2``, ``Point_Transformer`` and ``Point_Transformer_partseg``
Differs    Any attention may stand in the four layers. The official classes crash as published (a layer is called without its positions); ours follow their
           text with that mended. Its FPS never chooses points near the origin: ``skip_origin=True``.
Status     outputs and gradients equal to the official text's; parameters 2,810,856, 1,360,552 and 2,446,130

Shapes     B batch, N points, C channels, K classes
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._errors import InputError, unknown
from ...functional.points import farthest_points, gather_points
from .grouping import Local, conv_norm, sample_and_group
from .mixer import LayerForm, PointMixer

__all__ = ["PCT", "PCTParts", "SimplePCT"]

_LAYERS = 4
_ACTIVATIONS = {"relu": lambda: nn.ReLU(), "leaky_relu_0.2": lambda: nn.LeakyReLU(0.2)}


class PCT(nn.Module):
    """Classification of clouds, with neighbor embedding: 1,024 points, then 512, then 256, on which the layers work.

    Args:
        num_classes: K.
        in_channels: 3, or 6 with normals; the first three are coordinates.
        width: channels of the first maps; the layers have four times as many.
        npoints: samples of the two groupings.
        neighbors: of each sample.
        attention: in the layers, see :class:`PointMixer`; so are ``form``, ``num_heads`` and ``options``.
        position: add an embedding of the coordinates inside every layer, as the official code since March 2021; the paper does not.
        position_bias: of that embedding; one public port has it.
        stem: maps before the layers, 1 in the official code, 2 in one public port.
        head_activation: ``relu``, or ``leaky_relu_0.2`` as in one public port.
        drop_rate: in the head, in training.
        skip_origin: as the reference kernels, see :func:`foveal.functional.points.farthest_points`.

    Shape:
        ``(B, N, in_channels) -> (B, K)``, any N of at least ``npoints[0]`` and ``neighbors``.

    Raises:
        ValueError: a cloud with fewer points than are sampled, or of another width; an unknown attention or activation.
    """

    def __init__(
        self,
        num_classes: int = 40,
        *,
        in_channels: int = 3,
        width: int = 64,
        npoints: tuple[int, int] = (512, 256),
        neighbors: int = 32,
        attention: str = "offset",
        form: LayerForm = "offset",
        num_heads: int = 4,
        options: dict[str, Any] | None = None,
        position: bool = True,
        position_bias: bool = False,
        stem: int = 1,
        head_activation: Literal["relu", "leaky_relu_0.2"] = "relu",
        drop_rate: float = 0.5,
        skip_origin: bool = False,
    ) -> None:
        super().__init__()
        _check_width(in_channels)
        self.in_channels, self.npoints, self.neighbors, self.skip_origin = in_channels, npoints, neighbors, skip_origin
        channels = 4 * width
        self.embed = nn.Sequential(conv_norm(in_channels, width), conv_norm(width, width))
        self.locals = nn.ModuleList([Local(2 * width, 2 * width), Local(channels, channels)])
        self.pos_embed = nn.Conv1d(3, channels, 1, bias=position_bias) if position else None
        self.stem = nn.Sequential(*(conv_norm(channels, channels) for _ in range(stem)))
        self.layers = _layers(channels, attention, form, num_heads, options)
        self.fuse = _fuse((_LAYERS + 1) * channels, 16 * width)
        self.head = _classifier(16 * width, num_classes, head_activation, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """Of each sampled point, ``(B, 16 · width, n)``."""
        _check_cloud(type(self).__name__, x, self.in_channels)
        xyz, features = x[..., :3], self.embed(x.mT).mT
        for local, n in zip(self.locals, self.npoints, strict=True):
            xyz, groups = sample_and_group(xyz, features, n, self.neighbors, skip_origin=self.skip_origin)
            features = local(groups).mT
        local_features = features.mT
        position = None if self.pos_embed is None else self.pos_embed(xyz.mT)
        return self.fuse(torch.cat([*_through(self.layers, self.stem(local_features), position), local_features], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x).amax(-1))

    def sampled_points(self, x: Tensor) -> Tensor:
        """Coordinates of the points that the layers see, ``(B, npoints[1], 3)``."""
        xyz = x[..., :3]
        for n in self.npoints:
            xyz = gather_points(xyz, farthest_points(xyz, n, skip_origin=self.skip_origin))
        return xyz


class SimplePCT(nn.Module):
    """Classification without neighborhoods: the layers see every point. Arguments as of :class:`PCT`; the layers have ``2 · width`` channels.

    Shape:
        ``(B, N, in_channels) -> (B, K)``, any N.
    """

    def __init__(
        self,
        num_classes: int = 40,
        *,
        in_channels: int = 3,
        width: int = 64,
        attention: str = "offset",
        form: LayerForm = "offset",
        num_heads: int = 4,
        options: dict[str, Any] | None = None,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.trunk = _Trunk(in_channels, width, attention, form, num_heads, options)
        self.head = _classifier(16 * width, num_classes, "relu", drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).amax(-1))


class PCTParts(nn.Module):
    """Segmentation of clouds into parts, given the class of the shape. Arguments as of :class:`PCT`; the layers have ``2 · width`` channels.

    Args:
        num_parts: of all classes together.
        num_shapes: classes of shapes.

    Shape:
        points ``(B, N, in_channels)`` and the shape's class, ``(B,)`` int64 or one-hot ``(B, num_shapes)``, to ``(B, N, num_parts)``.
    """

    def __init__(
        self,
        num_parts: int = 50,
        num_shapes: int = 16,
        *,
        in_channels: int = 3,
        width: int = 64,
        attention: str = "offset",
        form: LayerForm = "offset",
        num_heads: int = 4,
        options: dict[str, Any] | None = None,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.num_shapes = num_shapes
        self.trunk = _Trunk(in_channels, width, attention, form, num_heads, options)
        self.shape_embed = _fuse(num_shapes, width)
        self.head = nn.Sequential(
            conv_norm(3 * 16 * width + width, 8 * width, bias=True),
            nn.Dropout(drop_rate),
            conv_norm(8 * width, 4 * width, bias=True),
            nn.Conv1d(4 * width, num_parts, 1),
        )

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        f = self.trunk(x)
        if shape.ndim == 1:
            shape = nn.functional.one_hot(shape, self.num_shapes).to(f.dtype)
        if shape.shape != (len(x), self.num_shapes):
            raise InputError(f"PCTParts expects the class of each shape, ({len(x)},) or ({len(x)}, {self.num_shapes}), got {tuple(shape.shape)}")
        parts = [f.amax(-1, keepdim=True), f.mean(-1, keepdim=True), self.shape_embed(shape.to(f.dtype).unsqueeze(-1))]
        return self.head(torch.cat([f, *(part.expand(-1, -1, f.shape[-1]) for part in parts)], 1)).mT


class _Trunk(nn.Module):
    """Every point through four layers, without grouping and positions: ``(B, N, in_channels) -> (B, 16 · width, N)``."""

    def __init__(self, in_channels: int, width: int, attention: str, form: LayerForm, num_heads: int, options: dict[str, Any] | None) -> None:
        super().__init__()
        _check_width(in_channels)
        self.in_channels = in_channels
        self.embed = nn.Sequential(conv_norm(in_channels, 2 * width), conv_norm(2 * width, 2 * width))
        self.layers = _layers(2 * width, attention, form, num_heads, options)
        self.fuse = _fuse(_LAYERS * 2 * width, 16 * width)

    def forward(self, x: Tensor) -> Tensor:
        _check_cloud("PCT", x, self.in_channels)
        return self.fuse(torch.cat(_through(self.layers, self.embed(x.mT), None), 1))


def _layers(channels: int, attention: str, form: LayerForm, num_heads: int, options: dict[str, Any] | None) -> nn.ModuleList:
    return nn.ModuleList(PointMixer(channels, attention, form, num_heads=num_heads, options=options) for _ in range(_LAYERS))


def _through(layers: nn.ModuleList, x: Tensor, position: Tensor | None) -> list[Tensor]:
    out = []
    for layer in layers:
        x = layer(x, position)
        out.append(x)
    return out


def _fuse(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(in_channels, channels, 1, bias=False), nn.BatchNorm1d(channels), nn.LeakyReLU(0.2))


def _classifier(channels: int, num_classes: int, activation: str, drop_rate: float) -> nn.Sequential:
    if activation not in _ACTIVATIONS:
        raise unknown("head_activation of PCT", activation, _ACTIVATIONS)
    make = _ACTIVATIONS[activation]
    first, second = channels // 2, channels // 4
    return nn.Sequential(
        nn.Linear(channels, first, bias=False),
        nn.BatchNorm1d(first),
        make(),
        nn.Dropout(drop_rate),
        nn.Linear(first, second),
        nn.BatchNorm1d(second),
        make(),
        nn.Dropout(drop_rate),
        nn.Linear(second, num_classes),
    )


def _check_width(in_channels: int) -> None:
    if in_channels < 3:
        raise InputError(f"in_channels must be at least 3, the coordinates, got {in_channels}")


def _check_cloud(name: str, x: Tensor, in_channels: int) -> None:
    if x.ndim != 3 or x.shape[-1] != in_channels or not x.is_floating_point():
        raise InputError(f"{name} expects points (B, N, {in_channels}) in floating point, got {tuple(x.shape)} of {x.dtype}")
