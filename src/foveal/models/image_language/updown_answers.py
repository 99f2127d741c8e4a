"""Questions about images answered in the manner of Up-Down: a GRU reads the question, which looks once at the regions; with or without CATT.

Paper      Anderson et al., CVPR 2018 (arXiv 1707.07998), its network for questions: gated tanh, element-wise product, an answer each scored on its own.
Formula    q = GRU(question);  v̂ what q takes of v, see :mod:`foveal.models.image_language.additive`;
           answers = W' f(W (f(q) ⊙ f(v̂)));  f(x) = tanh(Wx) ⊙ σ(W'x)
Differs    ``boxes``, as in :mod:`foveal.models.image_language.updown`. Words start at random vectors, not at GloVe's; the head's hidden layer is a gated tanh.

Shapes     B batch, R regions, F features of each, L words of the question, A answers
"""

from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor, nn

from ..._errors import InputError
from .additive import AdditiveStreams
from .regions import Placed
from .second import SecondOptions

__all__ = ["UpDownAnswerer"]


class _GatedTanh(nn.Module):
    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, dim), nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))


class UpDownAnswerer(nn.Module):
    """Scores of answers to a question about regions; arguments as of :class:`~foveal.models.McanAnswerer` and :class:`~foveal.models.UpDownCaptioner`.

    Raises:
        ValueError: see :class:`~foveal.models.image_language.additive.AdditiveStreams`.
    """

    def __init__(
        self,
        width: int,
        words: int,
        answers: int,
        dim: int = 1024,
        attention_dim: int = 512,
        *,
        words_dim: int = 300,
        length: int = 14,
        pad: int = 0,
        boxes: bool = False,
        blind: bool = False,
        drop: float = 0.5,
        **second: Unpack[SecondOptions],
    ) -> None:
        super().__init__()
        self.pad, self.length = pad, length
        self.words = nn.Embedding(words, words_dim)
        self.question = nn.GRU(words_dim, dim, batch_first=True)
        self.placed = None if blind else Placed(width, boxes=boxes)
        self.attn = None if blind else AdditiveStreams(width, dim, attention_dim, **second)
        self.asked, self.taken = _GatedTanh(dim, dim), None if blind else _GatedTanh(width, dim)
        self.head = nn.Sequential(_GatedTanh(dim, 2 * dim), nn.Dropout(drop), nn.Linear(2 * dim, answers))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of each answer, ``(B, A)``; as :meth:`McanAnswerer.forward`."""
        query = self._query(inputs["question"])
        joined = self.asked(query)
        if self.taken is not None:
            joined = joined * self.taken(self._look(query, inputs)[0])
        return self.head(joined)

    def look(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """What is taken of each region, ``(B, R)``, where any are looked at; of words, which a GRU reads one after the other, as much of each, ``(B, L)``."""
        question = inputs["question"]
        even = (question != self.pad).float()
        words = even / even.sum(1, keepdim=True)
        return None if self.taken is None else self._look(self._query(question), inputs)[1], words

    def _look(self, query: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        assert self.placed is not None, "there where it is not blind"
        assert self.attn is not None, "there where it is not blind"
        regions = self.placed(inputs["regions"], inputs["boxes"])
        return self.attn(query, regions, self.attn.keys_of(regions), inputs["there"])

    def _query(self, question: Tensor) -> Tensor:
        """What the GRU has behind the last word, ``(B, C)``."""
        if question.shape[1] > self.length:
            raise InputError(f"questions have {question.shape[1]} words and the network places for {self.length}; build it with a larger length")
        read, _ = self.question(self.words(question))
        last = (question != self.pad).sum(1).clamp_min(1) - 1
        return read[torch.arange(len(read), device=read.device), last]
