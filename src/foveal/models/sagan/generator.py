"""SAGAN's generator.

Paper      Zhang et al., "Self-Attention Generative Adversarial Networks", 2018 (arXiv 1805.08318).
Official   POSTECH-CVLab/PyTorch-StudioGAN of May 2021, ``src/models/resnet.py``; widths at 32, 64 and 128 pixels are its.

Shapes     B batch, Z width of the latents, K classes, C channels of the images, S their side
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError
from .blocks import EPS, GeneratorBlock
from .mixer import NONE, GanMixer
from .sizes import size_of_side
from .spectral import SpectralConv2d, SpectralLinear

__all__ = ["SAGANGenerator", "check_places"]

_SIDE = 4
"""Of the first map."""


class SAGANGenerator(nn.Module):
    """Latents to images.

    Args:
        img_size: S: 32, 64 or 128 as published, or 8 or 16.
        in_chans: C.
        num_classes: K; 0 draws without classes.
        z_dim: Z.
        width: channels of the widths' unit; 64 in the published networks.
        attention: see :class:`GanMixer`.
        options: of the attention.
        num_heads: of attentions of the registry.
        places: blocks behind which an attention stands, counted from 1; the published one if None.

    Shape:
        latents ``(B, Z)``, classes ``(B,)`` -> images ``(B, C, S, S)`` from −1 to 1.

    Raises:
        ValueError: a size, place or attention that there is not. In ``forward``: latents of another width, no classes where there are some.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 32,
        in_chans: int = 3,
        num_classes: int = 0,
        z_dim: int = 128,
        width: int = 64,
        attention: str = "sagan",
        options: dict[str, Any] | None = None,
        num_heads: int = 1,
        places: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        size = size_of_side(img_size)
        widths = [width * times for times in size.generator]
        self.z_dim, self.num_classes = z_dim, num_classes
        self.fc = SpectralLinear(z_dim, widths[0] * _SIDE**2)
        self.blocks = nn.ModuleList(GeneratorBlock(a, b, num_classes) for a, b in pairwise(widths))
        chosen = check_places((size.attention_g,) if places is None else places, len(self.blocks), "generator")
        self.mixers = nn.ModuleDict({str(place): GanMixer(widths[place], attention, options, num_heads=num_heads) for place in chosen if attention != NONE})
        self.norm = nn.BatchNorm2d(widths[-1], eps=EPS)
        self.conv = SpectralConv2d(widths[-1], in_chans, 3)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise InputError(f"this generator expects latents (B, {self.z_dim}), got {tuple(z.shape)}")
        x = self.fc(z).unflatten(1, (-1, _SIDE, _SIDE))
        for place, block in enumerate(self.blocks, 1):
            x = block(x, y)
            if str(place) in self.mixers:
                x = self.mixers[str(place)](x)
        return torch.tanh(self.conv(F.relu(self.norm(x))))


def check_places(places: tuple[int, ...], blocks: int, where: str) -> tuple[int, ...]:
    """Blocks of a network behind which attentions stand.

    Raises:
        ValueError: one that is not there, or is named twice.
    """
    if len(set(places)) < len(places) or not all(1 <= place <= blocks for place in places):
        raise InputError(f"attention in the {where} stands behind blocks 1 to {blocks}, each at most once, got {list(places)}")
    return tuple(sorted(places))
