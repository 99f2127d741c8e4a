"""The Up-Down captioner: one LSTM looks, by additive attention over regions, and one says; with or without CATT's second stream.

Paper      Anderson et al., "Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering", CVPR 2018 (arXiv 1707.07998), its captioner.
           Sizes: width 1000, attention 512, dropout 0.5, as in ruotianluo/self-critical.pytorch; regions of 2048 features.
Formula    h1 = LSTM1([h2; mean v; E y]);  v̂ what h1 takes of v, see :mod:`foveal.models.image_language.additive`;  h2 = LSTM2([v̂; h1]);  p = softmax(W h2)
Differs    ``boxes`` adds a linear map of where a region is to its features; the paper's regions do not say where they are.

Shapes     B batch, R regions, F features of each, T words, V words of the vocabulary, C width
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn

from ..._errors import InputError
from .additive import AdditiveStreams, RegionKeys, mean_of
from .regions import Placed
from .second import SecondOptions
from .words import check_words

__all__ = ["UpDownCaptioner"]

_Memory = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _State:
    """Regions, which belong to a sample, and the two LSTMs', which belong to a caption."""

    regions: Tensor
    mean: Tensor
    keys: RegionKeys
    there: Tensor
    look: _Memory
    say: _Memory
    place: int = 0

    def repeat(self, times: int) -> "_State":
        def again(part: Tensor) -> Tensor:
            return part.repeat_interleave(times, 0)

        # what is of a sample is read by all of its captions
        look, say = (again(self.look[0]), again(self.look[1])), (again(self.say[0]), again(self.say[1]))
        return replace(self, mean=again(self.mean), look=look, say=say)

    def reorder(self, index: Tensor) -> "_State":
        return replace(self, look=(self.look[0][index], self.look[1][index]), say=(self.say[0][index], self.say[1][index]))


class UpDownCaptioner(nn.Module):
    """Captions from regions.

    Args:
        width: F.
        words: V.
        dim: C, of words and of both LSTMs.
        attention_dim: width in which queries and regions meet.
        length: most words of a caption with its end.
        pad: the word of padding.
        begin: the word that all begins with.
        end: the word that ends a caption.
        boxes: regions say where they are.
        drop: dropout on words and on what is said.
        second: ``catt``, the second stream, ``dictionary_size``, ``share``, ``init`` and ``trainable``, see
            :class:`~foveal.models.image_language.second.Second`.

    Raises:
        ValueError: see :class:`~foveal.models.image_language.additive.AdditiveStreams`.
    """

    def __init__(
        self,
        width: int,
        words: int,
        dim: int = 1000,
        attention_dim: int = 512,
        *,
        length: int = 16,
        pad: int = 0,
        begin: int = 1,
        end: int = 2,
        boxes: bool = False,
        drop: float = 0.5,
        **second: Unpack[SecondOptions],
    ) -> None:
        super().__init__()
        self.pad, self.begin, self.end, self.length, self.dim = pad, begin, end, length, dim
        self.placed = Placed(width, boxes=boxes)
        self.words = nn.Embedding(words, dim)
        self.drop = nn.Dropout(drop)
        self.looking = nn.LSTMCell(2 * dim + width, dim)
        self.attn = AdditiveStreams(width, dim, attention_dim, **second)
        self.saying = nn.LSTMCell(width + dim, dim)
        self.head = nn.Linear(dim, words)

    def forward(self, inputs: Mapping[str, Tensor], captions: Tensor) -> Tensor:
        """Logits of each word after those before it, ``(B, T, V)``; arguments and errors as of :class:`~foveal.models.TransformerCaptioner`."""
        return self._told(inputs, captions)[0]

    def look(self, inputs: Mapping[str, Tensor], captions: Tensor) -> Tensor:
        """What each word of a caption takes of each region when it is found, ``(B, T, R)``."""
        return self._told(inputs, captions)[1]

    def start(self, inputs: Mapping[str, Tensor]) -> _State:
        regions, there = self.placed(inputs["regions"], inputs["boxes"]), inputs["there"]
        nothing = regions.new_zeros(len(regions), self.dim)
        return _State(regions, mean_of(regions, there), self.attn.keys_of(regions), there, (nothing, nothing), (nothing, nothing))

    def step(self, state: _State, words: Tensor) -> tuple[Tensor, _State]:
        """See :class:`~foveal.models.image_language.WordDecoder`; in evaluation mode."""
        if state.place >= self.length:
            raise InputError(f"the captioner was built for {self.length} words; build it with a larger length")
        logits, _, state = self._word(state, words)
        return logits.float().log_softmax(-1), state

    def _word(self, state: _State, words: Tensor) -> tuple[Tensor, Tensor, _State]:
        look = self.looking(torch.cat([state.say[0], state.mean, self.drop(self.words(words))], -1), state.look)
        taken, weights = self.attn(look[0], state.regions, state.keys, state.there)
        say = self.saying(torch.cat([taken, look[0]], -1), state.say)
        return self.head(self.drop(say[0])), weights, replace(state, look=look, say=say, place=state.place + 1)

    def _told(self, inputs: Mapping[str, Tensor], captions: Tensor) -> tuple[Tensor, Tensor]:
        check_words(captions, self.words.num_embeddings, self.length)
        before = torch.nn.functional.pad(captions[:, :-1].clamp_min(0), (1, 0), value=self.begin)
        state, logits, looks = self.start(inputs), [], []
        for word in before.unbind(1):
            found, weights, state = self._word(state, word)
            logits.append(found)
            looks.append(weights)
        return torch.stack(logits, 1), torch.stack(looks, 1)
