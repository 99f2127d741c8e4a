"""A transformer that says captions: regions are encoded, words are decoded one after the other; with or without CATT's second stream.

Paper      Yang et al., CVPR 2021 (CATT), its transformer captioner: 6 + 6 layers of width 512 with 8 heads. Sizes recalled, no code released: see
           :mod:`foveal.models.image_language.streams`.

Shapes     B batch, R regions, F features of each, T words, V words of the vocabulary
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn

from ..._errors import InputError
from .regions import RegionEmbedding
from .second import SecondOptions
from .streams import Reader, ReadingLayer, StreamEncoder, Streams
from .words import check_words

__all__ = ["TransformerCaptioner"]


@dataclass(frozen=True)
class _State:
    """Keys and values side by side: of what was encoded, by layer, which belong to a sample and are read by all of its captions; of a dictionary, of which
    there is one; and of the words so far of a caption, ``(T, B, 2C)``.
    """

    memory: tuple[Tensor, ...]
    mask: Tensor
    entries: Tensor | None
    words: tuple[Tensor | None, ...]
    place: int = 0

    def repeat(self, times: int) -> "_State":
        return self._moved(lambda part: part.repeat_interleave(times, 1))

    def reorder(self, index: Tensor) -> "_State":
        return self._moved(lambda part: part.index_select(1, index))

    def _moved(self, change: Callable[[Tensor], Tensor]) -> "_State":
        return replace(self, words=tuple(None if kept is None else change(kept) for kept in self.words))


class TransformerCaptioner(nn.Module):
    """Captions from regions.

    Args:
        width: F.
        words: V.
        dim: width of the tokens.
        depth: layers of the encoder, and of the decoder.
        num_heads: heads; must divide ``dim``.
        length: most words of a caption with its end.
        pad: the word of padding.
        begin: the word that all begins with.
        end: the word that ends a caption.
        drop: dropout.
        second: ``catt``, the second stream, ``dictionary_size`` of both dictionaries, of regions and of words, ``share``, ``init`` and ``trainable``, see
            :class:`~foveal.models.image_language.second.Second`.

    Raises:
        ValueError: see :class:`~foveal.models.image_language.streams.StreamEncoder`.
    """

    def __init__(
        self,
        width: int,
        words: int,
        dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        *,
        length: int = 16,
        pad: int = 0,
        begin: int = 1,
        end: int = 2,
        drop: float = 0.1,
        **second: Unpack[SecondOptions],
    ) -> None:
        super().__init__()
        self.pad, self.begin, self.end, self.length = pad, begin, end, length
        self.regions = RegionEmbedding(width, dim, drop)
        self.encoder = StreamEncoder(dim, depth, num_heads, drop=drop, **second)
        self.words = nn.Embedding(words, dim)
        self.places = nn.Parameter(torch.zeros(length, dim))
        self.words_norm, self.words_drop = nn.LayerNorm(dim, eps=1e-12), nn.Dropout(drop)
        self.decoder = Reader(dim, depth, num_heads, drop=drop, **second)
        self.head = nn.Linear(dim, words)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, inputs: Mapping[str, Tensor], captions: Tensor) -> Tensor:
        """Logits of each word after those before it, ``(B, T, V)``.

        Args:
            inputs: ``regions`` ``(B, R, F)``, ``boxes`` ``(B, R, 4)`` from 0 to 1, ``there``, bool ``(B, R)``.
            captions: words ``(B, T)``, −100 behind the end.

        Raises:
            ValueError: features that do not fit boxes; a word that is not in the vocabulary; captions longer than ``length``.
        """
        memory, mask = self.encode(inputs)
        return self.head(self.decoder(self._embedded(captions), memory, mask, causal=True, there=captions >= 0))

    def encode(self, inputs: Mapping[str, Tensor]) -> tuple[Streams, Tensor]:
        """Both streams of the regions, and which of them are there, ``(B, 1, 1, R)``."""
        mask = inputs["there"][:, None, None, :]
        return self.encoder(self.regions(inputs["regions"], inputs["boxes"]), mask), mask

    def look(self, inputs: Mapping[str, Tensor], captions: Tensor) -> Tensor:
        """What each word of a caption takes of each region when it is found, in the last layer, a mean over heads, ``(B, T, R)``."""
        memory, mask = self.encode(inputs)
        return self.decoder.look(self._embedded(captions), memory, mask, causal=True)

    def start(self, inputs: Mapping[str, Tensor]) -> _State:
        memory, mask = self.encode(inputs)
        made, entries = [layer.attn.keys_values(memory[0]) for layer in self._own_layers], None
        if self.decoder.fuse is not None:
            second = self.decoder.second_layer
            made.append(second.attn.keys_values(memory[0] if memory[1] is None else memory[1]))
            if self.decoder.dictionary is not None and second.self_attn is not None:
                entries = second.self_attn.keys_values(self.decoder.dictionary(memory[0]))
        return _State(tuple(made), mask, entries, (None,) * len(made))

    def step(self, state: _State, words: Tensor) -> tuple[Tensor, _State]:
        """See :class:`~foveal.models.image_language.WordDecoder`; in evaluation mode."""
        if state.place >= self.length:
            raise InputError(f"the captioner has places for {self.length} words; build it with a larger length")
        hidden = self.words_norm(self.words(words) + self.places[state.place])[:, None]
        kept: list[Tensor | None] = []
        below = hidden
        for layer, memory, before in zip(self._own_layers, state.memory, state.words, strict=False):
            below = hidden
            hidden, now = self._read(layer, hidden, memory, state.mask, before, None)
            kept.append(now)
        if self.decoder.fuse is not None:
            second, now = self._read(self.decoder.second_layer, below, state.memory[-1], state.mask, state.words[-1], state.entries)
            kept.append(now)
            hidden = self.decoder.fuse(torch.cat([hidden, second], -1))
        found = self.head(hidden[:, 0]).float().log_softmax(-1)
        return found, replace(state, words=tuple(kept), place=state.place + 1)

    @property
    def _own_layers(self) -> list[ReadingLayer]:
        return list(self.decoder.layers)  # type: ignore[arg-type]

    @staticmethod
    def _read(layer: ReadingLayer, hidden: Tensor, memory: Tensor, mask: Tensor, before: Tensor | None, entries: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One word through one layer, and the keys and values of all words so far; none where the layer does not look at words."""
        if layer.self_attn is None:
            inner, now = layer.self_norm(hidden), None
        elif entries is not None:
            inner, now = layer.self_norm(hidden + layer.self_attn.read(hidden, entries)), None
        else:
            new = layer.self_attn.keys_values(hidden).transpose(0, 1)
            now = new if before is None else torch.cat([before, new])
            inner = layer.self_norm(hidden + layer.self_attn.read(hidden, now.transpose(0, 1)))
        return layer.post(inner, layer.attn.read(inner, memory, mask)), now

    def _embedded(self, captions: Tensor) -> Tensor:
        check_words(captions, self.words.num_embeddings, self.length)
        before = torch.nn.functional.pad(captions[:, :-1].clamp_min(0), (1, 0), value=self.begin)
        return self.words_drop(self.words_norm(self.words(before) + self.places[: before.shape[1]]))
