"""What a set of captions looks like from outside."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._bundle import DataBundle

__all__ = ["CAPTIONS", "FORM", "CaptionBundle", "Lexicon"]

CAPTIONS = "captions"
FORM = ("<pad>", "<begin>", "<end>", "<unknown>")
"""The first words of a vocabulary, in this order."""


@dataclass(frozen=True)
class Lexicon:
    """Words by number. The first ``size`` are the vocabulary; numbers of the others tell words apart that a model does not know."""

    words: tuple[str, ...]
    size: int
    numbers: dict[str, int] = field(repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers.update({word: place for place, word in enumerate(self.words)})

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], further: Iterable[Sequence[str]] = (), *, at_least: int = 1) -> "Lexicon":
        """Of training texts, the most frequent words first and those of fewer occurrences than ``at_least`` no words of the vocabulary; and of other texts."""
        counts = Counter(word for text in texts for word in text)
        known = sorted((word for word, count in counts.items() if count >= at_least), key=lambda word: (-counts[word], word))
        rest = sorted((set(counts) | {word for text in further for word in text}) - set(known))
        return cls((*FORM, *known, *rest), len(FORM) + len(known))

    def encoded(self, text: Sequence[str], length: int, *, for_training: bool = False) -> Tensor:
        """Words and the end, ``(length,)``, −100 behind it; a longer text is cut, and has no end. For training a word outside the vocabulary is <unknown>."""
        numbers = [*(self.numbers[word] for word in text), FORM.index("<end>")][:length]
        if for_training:
            numbers = [number if number < self.size else FORM.index("<unknown>") for number in numbers]
        return torch.tensor([*numbers, *[-100] * (length - len(numbers))])


@dataclass(frozen=True)
class CaptionBundle(DataBundle):
    """Splits of ``(inputs, target)``.

    Inputs are ``regions``, features ``(R, F)``; ``boxes``, ``(R, 4)``, left, top, right, bottom from 0 to 1; ``there``, ``(R,)``, False where a row is padding;
    and, where a set has it, ``picture``, bytes ``(3, H, W)`` to be looked at. A target is a dict: ``references``, words of each reference ``(n, T)`` with their
    end, −100 behind it; and ``classes``, bool ``(C,)``, which of the bundle's classes are in the scene, where that is known.
    """

    width: int = 1
    """F."""
    lexicon: Lexicon = field(default_factory=lambda: Lexicon(FORM, len(FORM)))
    length: int = 16
    """T."""
    class_of_word: dict[str, int] = field(default_factory=dict)
    """The class that a noun names, where classes of scenes are known."""

    def said(self, words: Any) -> str:
        """Words as a text; what is none is left out."""
        return " ".join(self.lexicon.words[int(word)] for word in words if int(word) >= len(FORM) or int(word) == FORM.index("<unknown>"))
