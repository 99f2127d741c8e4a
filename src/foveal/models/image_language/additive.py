"""Additive attention of one query over regions, and CATT's second stream of it.

Paper      Anderson et al., "Bottom-Up and Top-Down Attention", CVPR 2018 (arXiv 1707.07998); Yang et al., CVPR 2021 (CATT). No code of the combination was
           released: a reconstruction.
Formula    a_i = w · tanh(W_v v_i + W_h h);  z = Σ softmax(a)_i v_i;  x the same over the K rows of a dictionary in the space of regions, with the same W_v, W_h
           and w if shared;  out = W [z; x] + b, which starts at [I | 0]
Controls   ``in_sample``: x of the regions themselves, with weights of its own; ``skip``: x their mean

Shapes     B batch, S samples, of which a batch has one or several queries each, R regions, F features of each, K entries, Q width of a query
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from .second import Second, SecondOptions
from .streams import fuse_streams

__all__ = ["AdditiveAttention", "AdditiveStreams", "RegionKeys", "mean_of"]

RegionKeys = tuple[Tensor | None, ...]
"""``W_v v`` of the regions, for the first attention; and for a second, of regions or of a dictionary, None where there is none, or it is made each time."""


class AdditiveAttention(nn.Module):
    """``w · tanh(W_v v + W_h h)``."""

    def __init__(self, width: int, query: int, dim: int) -> None:
        super().__init__()
        self.keys = nn.Linear(width, dim)
        self.query = nn.Linear(query, dim, bias=False)
        self.weigh = nn.Linear(dim, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, there: Tensor | None = None) -> Tensor:
        """Weights ``(S, B/S, N)``, which sum to one, of keys ``(S, N, A)``, none of those not ``there``; so many queries in a row ask the same keys."""
        asked = self.query(query).unflatten(0, (len(keys), -1))
        found = self.weigh(torch.tanh(keys[:, None] + asked[:, :, None]))[..., 0]
        return (found if there is None else found.masked_fill(~there[:, None], -torch.inf)).softmax(-1)


class AdditiveStreams(nn.Module):
    """What a query takes of regions, ``(B, F)``, with a second stream of it unless ``catt`` is ``none``.

    Args:
        width: F.
        query: Q.
        dim: width in which both meet.
        second: the fields of :class:`~foveal.models.image_language.second.Second`.

    Raises:
        ValueError: an unknown ``catt`` or ``init``; a dictionary of no entry.
    """

    def __init__(self, width: int, query: int, dim: int, **second: Unpack[SecondOptions]) -> None:
        super().__init__()
        own = Second(**second)
        self.catt = own.catt
        self.attn = AdditiveAttention(width, query, dim)
        self.cross = AdditiveAttention(width, query, dim) if own.unshared else None
        self.dictionary = own.dictionary(width)
        self.fuse = None if own.catt == "none" else fuse_streams(width)

    def keys_of(self, regions: Tensor) -> RegionKeys:
        """What need be made of regions ``(S, R, F)`` but once, for however many queries; of a dictionary, too, where it is not trained or fitted."""
        own, second = self.attn.keys(regions), self.cross or self.attn
        if self.dictionary is not None:
            return own, None if self.training or not self.dictionary.fitted else second.keys(self.dictionary(regions))
        return own, None if self.cross is None else second.keys(regions)

    def forward(self, query: Tensor, regions: Tensor, keys: RegionKeys, there: Tensor) -> tuple[Tensor, Tensor]:
        """What is taken, ``(B, F)``, and how much of each region, ``(B, R)``.

        Args:
            query: ``(B, Q)``; of several of a sample, such as beams, each sample's in a row.
            regions: of each sample, ``(S, R, F)``.
            keys: of :meth:`keys_of`.
            there: bool ``(S, R)``.
        """
        assert keys[0] is not None, "made of all regions"
        weights = self.attn(query, keys[0], there)
        taken, own = (weights @ regions).flatten(0, 1), weights.flatten(0, 1)
        if self.fuse is None:
            return taken, own
        if self.dictionary is not None:
            entries, second = self.dictionary(regions, there), self.cross or self.attn
            other = second(query, second.keys(entries) if keys[1] is None else keys[1])[0] @ entries[0]
        elif self.cross is not None and keys[1] is not None:
            other = (self.cross(query, keys[1], there) @ regions).flatten(0, 1)
        else:
            other = mean_of(regions, there).repeat_interleave(len(query) // len(regions), 0)
        return self.fuse(torch.cat([taken, other], -1)), own


def mean_of(regions: Tensor, there: Tensor) -> Tensor:
    """Of those that are there, ``(S, F)``."""
    shares = there.to(regions.dtype)
    return ((shares / shares.sum(1, keepdim=True))[:, None] @ regions)[:, 0]
