"""Words one after the other: the likeliest each time, drawn, or by beam search. They know nothing of the network but a step.

Score      the sum of the log-probabilities of a caption's words, its end among them; divided by (number of words)^length_penalty where one is asked for
Differs    Finished captions are kept and compete with those that go on; a search ends when none that goes on can become better, which without a length
           penalty is certain, since a sum of log-probabilities only falls.

Shapes     B samples, W beams, V words of the vocabulary, T words of a caption
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..._errors import InputError

__all__ = ["DecodingState", "Said", "WordDecoder", "beam_search", "greedy_search", "sample_words"]

_NONE = -100


class DecodingState(Protocol):
    """What a network remembers between words; each row is a caption. What belongs to a sample need not be there once for each of its captions."""

    def repeat(self, times: int) -> "DecodingState":
        """Every row so many times in a row."""
        ...

    def reorder(self, index: Tensor) -> "DecodingState":
        """Row ``index[n]`` at place ``n``; both are captions of the same sample."""
        ...


class WordDecoder(Protocol):
    """A network that says captions. ``pad`` and ``begin`` are never said, ``end`` ends."""

    pad: int
    begin: int
    end: int

    def start(self, inputs: Any) -> Any:
        """The state before the first word."""
        ...

    def step(self, state: Any, words: Tensor) -> tuple[Tensor, Any]:
        """Log-probabilities ``(B, V)`` of the words behind ``words`` ``(B,)``, and the state then."""
        ...


@dataclass(frozen=True)
class Said:
    """Captions."""

    words: Tensor
    """``(B, T)``, the end among them, −100 behind it."""
    score: Tensor
    """``(B,)``, the sum of their log-probabilities, whatever the length penalty."""


@torch.no_grad()
def greedy_search(decoder: WordDecoder, inputs: Any, *, length: int) -> Said:
    """The likeliest word each time, at most ``length`` of them with the end."""
    return _one_by_one(decoder, inputs, length, lambda found: found.argmax(-1))


@torch.no_grad()
def sample_words(decoder: WordDecoder, inputs: Any, *, length: int, times: int = 1, temperature: float = 1.0, generator: torch.Generator | None = None) -> Said:
    """Words drawn by their probabilities.

    Args:
        decoder: the network.
        inputs: of it.
        length: most words with the end.
        times: captions of each sample, which stand in a row.
        temperature: below 1 likely words become likelier.
        generator: of torch's random numbers.

    Raises:
        ValueError: a temperature that is not above 0; ``times`` below 1.
    """
    if temperature <= 0 or times < 1:
        raise InputError(f"expected a temperature above 0 and at least one caption of a sample, got {temperature} and {times}")

    def draw(found: Tensor) -> Tensor:
        # of a network whose answers are no numbers any word: their log-probability is NaN too, by which a training stops with its step and rate
        chances = (found / temperature).softmax(-1).nan_to_num(nan=1.0)
        return torch.multinomial(chances, 1, generator=generator).flatten()

    return _one_by_one(decoder, inputs, length, draw, times)


def _one_by_one(decoder: WordDecoder, inputs: Any, length: int, choose: Any, times: int = 1) -> Said:
    _check_length(length)
    state, said = decoder.start(inputs), []
    found, state = decoder.step(state, _beginning(decoder, inputs))
    if times > 1:
        state, found = state.repeat(times), found.repeat_interleave(times, 0)
    score = found.new_zeros(len(found))
    ended = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    for place in range(length):
        word = choose(_sayable(found.clone(), decoder))
        score = score + found.gather(1, word[:, None])[:, 0].masked_fill(ended, 0.0)
        said.append(word.masked_fill(ended, _NONE))
        ended = ended | (word == decoder.end)
        # asked for each word: a word costs far more than the answer
        if place + 1 == length or bool(ended.all()):
            break
        found, state = decoder.step(state, word)
    words = torch.stack(said, 1)
    return Said(torch.nn.functional.pad(words, (0, length - words.shape[1]), value=_NONE), score)


@torch.no_grad()
def beam_search(decoder: WordDecoder, inputs: Any, *, width: int, length: int, length_penalty: float = 0.0) -> Said:
    """The best captions that are found when the ``width`` best beginnings are followed, for all samples at once.

    Args:
        decoder: the network.
        inputs: of it.
        width: W; with 1 it is the greedy search. With as many as there are captions nothing is cut, and the best is found.
        length: most words, with the end.
        length_penalty: by this power of its number of words a score is divided; 0, the default, prefers short captions, as the plain sum does.

    Raises:
        ValueError: a width or length below 1; a penalty below 0.
    """
    _check_length(length)
    if width < 1 or length_penalty < 0:
        raise InputError(f"expected a width of at least 1 and a length_penalty of at least 0, got {width} and {length_penalty}")
    found, state = decoder.step(decoder.start(inputs), _beginning(decoder, inputs))
    samples, vocabulary = found.shape
    state = state.repeat(width)
    rows = torch.arange(samples, device=found.device)[:, None]
    # at first there is one beginning, and no other must be a copy of it
    alive = found.new_full((samples, width), -torch.inf)
    alive[:, 0] = 0.0
    words = torch.full((samples, width, length), _NONE, device=found.device)
    ended, kept = torch.full_like(alive, -torch.inf), words.clone()
    found = found.repeat_interleave(width, 0)
    for place in range(length):
        sums = _sayable(alive[..., None] + found.view(samples, width, vocabulary), decoder)
        # twice as many: at most one of each beam ends, so that as many as there were go on
        values, flat = sums.flatten(1).topk(min(2, vocabulary) * width, dim=1)
        beam, word = flat // vocabulary, flat % vocabulary
        longer = words[rows, beam].clone()
        longer[..., place] = word
        last = place + 1 == length
        ends = (word == decoder.end) | last
        # an end that is none of the best is cut as any other word is: with one beam, this is the greedy search
        among = torch.arange(values.shape[1], device=found.device) < width
        ended, kept = _best(
            torch.cat([ended, (values / (place + 1) ** length_penalty).masked_fill(~(ends & among), -torch.inf)], 1), torch.cat([kept, longer], 1), width, rows
        )
        alive, chosen = values.masked_fill(ends, -torch.inf).topk(width, dim=1)
        if last or _settled(alive, ended, length, length_penalty):
            break
        words, beam, word = longer[rows, chosen], beam.gather(1, chosen), word.gather(1, chosen)
        state = state.reorder((rows * width + beam).flatten())
        found, state = decoder.step(state, word.flatten())
    best = kept[:, 0]
    score = ended[:, 0] * (best != _NONE).sum(1).to(ended.dtype) ** length_penalty
    return Said(best, score)


def _best(scores: Tensor, words: Tensor, width: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    found, chosen = scores.topk(width, dim=1)
    return found, words[rows, chosen]


def _settled(alive: Tensor, ended: Tensor, length: int, length_penalty: float) -> bool:
    """Whether nothing that goes on can become better than the best that ended: at best it adds words of probability 1."""
    return bool((ended[:, 0] >= alive[:, 0] / length**length_penalty).all())


def _sayable(found: Tensor, decoder: WordDecoder) -> Tensor:
    """Without the words of form that nobody says, in place."""
    found[..., decoder.pad] = -torch.inf
    found[..., decoder.begin] = -torch.inf
    return found


def _beginning(decoder: WordDecoder, inputs: Any) -> Tensor:
    regions = inputs["regions"]
    return torch.full((len(regions),), decoder.begin, device=regions.device)


def _check_length(length: int) -> None:
    if length < 1:
        raise InputError(f"a caption has at least one word with its end, got length={length}")
