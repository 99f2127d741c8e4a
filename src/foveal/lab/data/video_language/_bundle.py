"""What a set of clips with questions looks like from outside."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .._bundle import DataBundle

__all__ = ["TARGETS", "WORDS_OF_FORM", "AnswerBundle"]

TARGETS = "answers"
WORDS_OF_FORM = ("<pad>", "<begin>", "<end>", "<video>", "<probe>")
"""The first words of a vocabulary, in this order."""


@dataclass(frozen=True)
class AnswerBundle(DataBundle):
    """Splits of ``(inputs, target)``.

    Inputs are ``question``, words ``(L,)``; ``layers``, what comes out of each layer of the tower, ``(layers, T, N, C)``; and ``clip``, ``(T, 1, H, W)`` from 0
    to 1, to be looked at. The target is the number of the kind of question and the words of the answer, −100 behind its end, ``(1 + A,)``.
    """

    num_frames: int = 3
    """T."""
    tower: Any = field(default_factory=nn.Identity)
    """Frozen; a vision transformer of timm's kind."""
    words: tuple[str, ...] = WORDS_OF_FORM
    """The vocabulary."""
    kinds: tuple[str, ...] = ()
    """Kinds of questions."""
    chances: tuple[float, ...] = ()
    """Of guessing, by kind."""
    answer_words: int = 2
    """A."""

    def said(self, words: Any) -> str:
        """Words of an answer or a question as a text; what is none is left out."""
        names = [self.words[int(word)] for word in words if int(word) >= 0]
        return " ".join(name for name in names if name not in WORDS_OF_FORM)
