"""What a set of questions about images looks like from outside."""

from dataclasses import dataclass, field
from typing import Any

from .._bundle import DataBundle
from ._bundle import FORM, Lexicon

__all__ = ["ANSWERS", "ImageAnswerBundle"]

ANSWERS = "image_answers"


@dataclass(frozen=True)
class ImageAnswerBundle(DataBundle):
    """Splits of ``(inputs, target)``.

    Inputs are those of :class:`CaptionBundle` and ``question``, words ``(L,)``, padded. A target is the number of the kind of question, and of each answer how
    right it is, from 0 to 1: ``(1 + A,)`` float.
    """

    width: int = 1
    """Of the features of a region."""
    lexicon: Lexicon = field(default_factory=lambda: Lexicon(FORM, len(FORM)))
    length: int = 16
    """L."""
    answers: tuple[str, ...] = ()
    """That can be given."""
    kinds: tuple[str, ...] = ()
    """Kinds of questions."""
    chances: tuple[float, ...] = ()
    """Of guessing, by kind; none where that is not known."""

    def metric_of(self, kind: str) -> str:
        """The name of a number that is of this kind of question alone."""
        return kind.replace(" ", "_").replace("/", "_")

    def asked(self, words: Any) -> str:
        """A question as a text."""
        return " ".join(self.lexicon.words[int(word)] for word in words if int(word) >= len(FORM)) + "?"
