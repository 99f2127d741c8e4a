"""What a set of regions with questions looks like from outside."""

from dataclasses import dataclass
from typing import Any

from .._bundle import DataBundle

__all__ = ["TARGETS", "RegionBundle"]

TARGETS = "answer-scores"


@dataclass(frozen=True)
class RegionBundle(DataBundle):
    """Splits of ``(inputs, scores)``, with the answers as classes.

    Inputs are ``input_ids``, words ``(N,)``; ``features`` and ``boxes``, one ``(M, F)`` and one ``(M, 4)`` an image, boxes as shares of it, left, top, right,
    bottom; and where the set knows them ``tints``, the colors ``(M, 3)`` that regions are drawn in. Scores are what each answer is worth, ``(answers,)``.
    """

    words: int = 0
    """Size of the vocabulary."""
    region_dim: int = 2048
    """F."""
    images: int = 1
    """Of a sentence."""
    tokenizer: Any = None
    """What made words of sentences; None where :attr:`names` has them."""
    names: tuple[str, ...] = ()
    """The vocabulary, where it is a closed one."""
    guessing: float | None = None
    """The score of guessing, where it is known."""

    def said(self, ids: Any) -> str:
        """Words as a text, without what marks begin, end and padding."""
        if self.tokenizer is not None:
            text: str = self.tokenizer.decode([int(word) for word in ids], skip_special_tokens=True)
            return text
        return " ".join(name for name in (self.names[int(word)] for word in ids) if not name.startswith("["))
