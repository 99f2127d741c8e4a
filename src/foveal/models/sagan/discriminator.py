"""SAGAN's discriminator, with a projection of classes.

Paper      Zhang et al. 2018 (arXiv 1805.08318); projection: Miyato and Koyama 2018 (arXiv 1802.05637).
Official   POSTECH-CVLab/PyTorch-StudioGAN of May 2021, ``src/models/resnet.py``.
Formula    h = Σ over pixels of ReLU(blocks(x));  score = linear(h) + ⟨embedding[y], h⟩
Note       Whatever no pixel of the last map has seen together, no score depends on together: it is a sum over pixels.

Shapes     B batch, C channels of the images, S their side, K classes
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..._errors import InputError
from .blocks import DiscriminatorBlock, FirstBlock
from .generator import check_places
from .mixer import NONE, GanMixer, has_batch_norm
from .sizes import size_of_side
from .spectral import SpectralEmbedding, SpectralLinear

__all__ = ["SAGANDiscriminator"]


class SAGANDiscriminator(nn.Module):
    """Images to scores: large for real ones.

    Args:
        img_size: as in :class:`SAGANGenerator`, and so are the others.
        in_chans: C.
        num_classes: K; 0 for a score without classes.
        width: of the widths' unit.
        attention: see :class:`GanMixer`; not one with batch norm inside, which would couple real images and drawn ones.
        options: of the attention.
        num_heads: of attentions of the registry.
        places: blocks behind which an attention stands; the published one, the first, if None.

    Shape:
        images ``(B, C, S, S)``, classes ``(B,)`` -> scores ``(B,)``.

    Raises:
        ValueError: a size, place or attention that there is not; an attention with batch norm. In ``forward``: images of other channels, no classes where there
            are some.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 32,
        in_chans: int = 3,
        num_classes: int = 0,
        width: int = 64,
        attention: str = "sagan",
        options: dict[str, Any] | None = None,
        num_heads: int = 1,
        places: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        size = size_of_side(img_size)
        widths = [width * times for times in size.discriminator]
        self.in_chans, self.num_classes = in_chans, num_classes
        self.blocks = nn.ModuleList([FirstBlock(in_chans, widths[0])])
        for place in range(1, len(widths)):
            self.blocks.append(DiscriminatorBlock(widths[place - 1], widths[place], down=size.down[place]))
        chosen = check_places((size.attention_d,) if places is None else places, len(self.blocks), "discriminator")
        self.mixers = nn.ModuleDict({str(place): GanMixer(widths[place - 1], attention, options, num_heads=num_heads) for place in chosen if attention != NONE})
        if has_batch_norm(self.mixers):
            raise InputError(
                f"{attention} has batch norm inside, which in a discriminator tells each image of the others in its batch; "
                "choose another attention, or leave the discriminator without (attention_d of no block)"
            )
        self.fc = SpectralLinear(widths[-1], 1)
        self.embed = SpectralEmbedding(num_classes, widths[-1]) if num_classes else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise InputError(f"this discriminator expects images (B, {self.in_chans}, H, W), got {tuple(x.shape)}")
        for place, block in enumerate(self.blocks, 1):
            x = block(x)
            if str(place) in self.mixers:
                x = self.mixers[str(place)](x)
        h = F.relu(x).sum((2, 3))
        score = self.fc(h)[:, 0]
        if self.embed is None:
            return score
        if y is None:
            raise InputError("this discriminator judges by class; give the class of each image")
        return score + (self.embed(y) * h).sum(1)
