"""Questions about images answered by a transformer in the manner of MCAN: words attend to words, regions to regions and to words; with or without CATT.

Paper      Yu et al., "Deep Modular Co-Attention Networks for Visual Question Answering", CVPR 2019 (arXiv 1906.10770), encoder and decoder, attentional
           reduction; Yang et al., CVPR 2021 (CATT) for the second stream. No code of that combination was released: a reconstruction.
Formula    words  encoder, its two streams fused;  regions  reader of the words' two streams, fused
           pooled = Σ softmax(MLP(x)) x of each;  answers = W LN(GELU(W' (LN(words + regions))))
Differs    Layers are BERT's, as in the other hosts here; the authors' have no bias in GELU's place (ReLU). Answers are scored each on its own (sigmoid).

Shapes     B batch, R regions, F features of each, L words of the question, A answers
"""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from ..._errors import InputError
from .regions import RegionEmbedding
from .second import SecondOptions
from .streams import Reader, StreamEncoder, fuse_streams

__all__ = ["AnswerHead", "McanAnswerer"]


class AnswerHead(nn.Sequential):
    """LXMERT's: linear to twice the width, GELU, norm, linear to the answers."""

    def __init__(self, dim: int, answers: int) -> None:
        super().__init__(nn.Linear(dim, 2 * dim), nn.GELU(), nn.LayerNorm(2 * dim, eps=1e-12), nn.Linear(2 * dim, answers))


class Reduction(nn.Module):
    """One vector of many tokens, by a weight of each that an MLP gives."""

    def __init__(self, dim: int, drop: float) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(drop), nn.Linear(dim, 1))
        self.proj = nn.Linear(dim, dim)

    def weights(self, tokens: Tensor, there: Tensor) -> Tensor:
        """``(B, N)``, of those that are ``there``."""
        return self.weigh(tokens)[..., 0].masked_fill(~there, -torch.inf).softmax(-1)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        return self.proj((self.weights(tokens, there)[:, None] @ tokens)[:, 0])


class McanAnswerer(nn.Module):
    """Scores of answers to a question about regions.

    Args:
        width: F.
        words: size of the vocabulary of questions.
        answers: A.
        dim: width of the tokens.
        depth: layers over words, and over regions.
        num_heads: heads; must divide ``dim``.
        length: most words of a question.
        pad: the word of padding.
        blind: the question alone is looked at, which is a control.
        drop: dropout.
        second: ``catt``, the second stream, ``dictionary_size`` of both dictionaries, of words and of regions, ``share``, ``init`` and ``trainable``, see
            :class:`~foveal.models.image_language.second.Second`.

    Raises:
        ValueError: see :class:`~foveal.models.image_language.streams.StreamEncoder`.
    """

    def __init__(
        self,
        width: int,
        words: int,
        answers: int,
        dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        *,
        length: int = 14,
        pad: int = 0,
        blind: bool = False,
        drop: float = 0.1,
        **second: Unpack[SecondOptions],
    ) -> None:
        super().__init__()
        self.pad, self.length = pad, length
        self.words = nn.Embedding(words, dim)
        self.places = nn.Parameter(torch.zeros(length, dim))
        self.words_norm, self.words_drop = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(drop)
        self.encoder = StreamEncoder(dim, depth, num_heads, drop=drop, **second)
        self.fuse = None if self.encoder.catt == "none" else fuse_streams(dim)
        self.words_reduction = Reduction(dim, drop)
        self.regions = None if blind else RegionEmbedding(width, dim, drop)
        self.reader = None if blind else Reader(dim, depth, num_heads, drop=drop, **second)
        self.regions_reduction = None if blind else Reduction(dim, drop)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.head = AnswerHead(dim, answers)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of each answer, ``(B, A)``.

        Args:
            inputs: ``question``, words ``(B, L)``, padded behind; ``regions`` ``(B, R, F)``, ``boxes`` ``(B, R, 4)`` from 0 to 1, ``there``, bool ``(B, R)``.

        Raises:
            ValueError: features that do not fit boxes; a question longer than ``length``.
        """
        words, asked, regions = self._tokens(inputs)
        pooled = self.words_reduction(words, asked)
        if self.regions_reduction is not None and regions is not None:
            pooled = pooled + self.regions_reduction(regions, inputs["there"])
        return self.head(self.norm(pooled))

    def look(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """What is taken of each region, ``(B, R)``, where any are looked at, and of each word, ``(B, L)``; rows sum to one."""
        words, asked, regions = self._tokens(inputs)
        taken = None if self.regions_reduction is None or regions is None else self.regions_reduction.weights(regions, inputs["there"])
        return taken, self.words_reduction.weights(words, asked)

    def _tokens(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        question = inputs["question"]
        if question.shape[1] > self.length:
            raise InputError(f"questions have {question.shape[1]} words and the network places for {self.length}; build it with a larger length")
        asked = question != self.pad
        mask = asked[:, None, None]
        hidden = self.words_drop(self.words_norm(self.words(question) + self.places[: question.shape[1]]))
        streams = self.encoder(hidden, mask)
        words = streams[0] if self.fuse is None or streams[1] is None else self.fuse(torch.cat([streams[0], streams[1]], -1))
        if self.regions is None or self.reader is None:
            return words, asked, None
        there = inputs["there"][:, None, None]
        return words, asked, self.reader(self.regions(inputs["regions"], inputs["boxes"]), streams, mask, mask=there)
