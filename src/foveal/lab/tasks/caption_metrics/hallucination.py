"""What captions name that is not in the picture.

Paper      Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018 (arXiv 1809.02156): CHAIR.
Formula    CHAIR_i = named things that are not there / named things;  CHAIR_s = captions with one that is not there / captions
Differs    Things of a caption are its nouns by a list of the set's own; a class that is named twice in a caption counts once, as in the official code's sets of
           each sentence's objects.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

__all__ = ["Hallucination", "hallucination"]


@dataclass(frozen=True)
class Hallucination:
    """Counts; shares are None where there is nothing to have a share of."""

    named: int
    """Things that captions name."""
    absent: int
    """Of these, those that are not there."""
    captions: int
    with_absent: int
    """Captions that name a thing that is not there."""

    @property
    def of_things(self) -> float | None:
        """CHAIR_i."""
        return self.absent / self.named if self.named else None

    @property
    def of_captions(self) -> float | None:
        """CHAIR_s."""
        return self.with_absent / self.captions if self.captions else None


def hallucination(captions: Sequence[Sequence[str]], there: Sequence[Set[int]], class_of_word: Mapping[str, int]) -> Hallucination:
    """Count what captions name.

    Args:
        captions: words of each.
        there: classes of things in each picture.
        class_of_word: the class that a noun names.
    """
    named = [{class_of_word[word] for word in caption if word in class_of_word} for caption in captions]
    absent = [mine - own for mine, own in zip(named, there, strict=True)]
    return Hallucination(sum(map(len, named)), sum(map(len, absent)), len(named), sum(bool(each) for each in absent))
