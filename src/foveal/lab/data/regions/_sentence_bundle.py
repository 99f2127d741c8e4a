"""What sentences about regions look like from outside, of which a network is to guess what is hidden."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._bundle import DataBundle

__all__ = ["SENTENCES", "SentenceBundle", "exchanged", "labels_of"]

SENTENCES = "region-sentences"


@dataclass(frozen=True)
class SentenceBundle(DataBundle):
    """Splits of ``(inputs, labels)``, with answers as classes.

    Inputs are ``input_ids``, words ``(N,)``; ``maskable``, bool ``(N,)``, False where a word is a mark; ``features`` ``(M, F)`` and ``boxes`` ``(M, 4)``, as
    shares of the image; ``objects`` and ``attributes``, what a detector calls each region, ``(M,)``; ``objects_conf`` and ``attributes_conf``, how sure it is.
    Labels are two numbers: 1 where the sentence is one of this image, 0 where it is of another; and the answer, −1 where there is none.
    """

    words: int = 0
    """Size of the vocabulary."""
    region_dim: int = 2048
    """F."""
    objects: int = 1_600
    """Kinds of objects that the detector knows."""
    attributes: int = 400
    """Attributes."""
    mask: int = 0
    """The word that stands for a hidden one."""
    tokenizer: Any = None
    """What made words of sentences; None where the set has a vocabulary of its own."""


def exchanged(index: int, images: Sequence[Any], augments: bool) -> int:
    """Which sample's sentence goes with this one's regions: in one half of all cases its own, else one of another image.

    Args:
        index: of the sample.
        images: of each sample, the image that it is about; of at least two.
        augments: drawn anew each time, from torch's random numbers; else decided by the index.
    """
    generator = None if augments else torch.Generator().manual_seed(index)

    def draw(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    if draw(2):
        return index
    while images[other := draw(len(images))] == images[index]:
        pass
    return other


def labels_of(matched: bool, answer: int) -> Tensor:
    """An answer to another image's question is none."""
    return torch.tensor([int(matched), answer if matched else -1])
