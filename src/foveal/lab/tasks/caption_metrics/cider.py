"""CIDEr-D: how far a caption agrees with references, by n-grams that are rare among the images.

Paper      Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015 (arXiv 1411.5726).
Official   pycocoevalcap ``cider/cider_scorer.py`` with its default parameters
Formula    g(ω) = count(ω) · (ln N − ln max(1, df(ω)));  of n-grams, n = 1 … 4, Σ min(g_h, g_r) · g_r / (‖g_h‖ ‖g_r‖) · exp(−(l_h − l_r)² / (2 · 6²));
           the mean over n and over references, times 10. N images; df(ω) in how many of them a reference has ω; l the number of bigrams
Note       With one image every weight is ln 1 = 0, and so is every score. So it is of an n-gram that every image has.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

from ...._errors import InputError

__all__ = ["CiderD", "document_frequencies"]

_LONGEST, _SIGMA = 4, 6.0
Ngram = tuple[Hashable, ...]
Text = Sequence[Hashable]


def document_frequencies(references: Iterable[Sequence[Text]]) -> Counter[Ngram]:
    """In how many images a reference has each n-gram; an image counts once."""
    found: Counter[Ngram] = Counter()
    for texts in references:
        found.update({ngram for text in texts for ngram in _ngrams(text)})
    return found


class CiderD:
    """CIDEr-D with fixed document frequencies: of the references that are judged against, or of training references for a reward.

    Args:
        references: of each image, texts of words. Words are anything that can be compared.

    Raises:
        ValueError: fewer than two images, by which every score would be 0; an image without references.
    """

    def __init__(self, references: Sequence[Sequence[Text]]) -> None:
        if len(references) < 2:
            raise InputError(f"CIDEr-D weighs n-grams by how few images have them, so it needs at least 2 images, got {len(references)}")
        if any(not texts for texts in references):
            raise InputError("an image without references cannot be judged; leave it out")
        self._frequencies: Mapping[Ngram, int] = document_frequencies(references)
        self._images = math.log(len(references))
        self._kept: dict[tuple[Hashable, ...], tuple[list[dict[Ngram, float]], list[float], int]] = {}

    def score(self, said: Text, references: Sequence[Text]) -> float:
        """Of one caption, 0 to 10 times the length of no difference; 10 is one of the references among equal ones.

        Raises:
            ValueError: no references.
        """
        if not references:
            raise InputError("an image without references cannot be judged; leave it out")
        own = self._vectors(said)
        total = [0.0] * _LONGEST
        for reference in references:
            theirs = self._reference(tuple(reference))
            for n in range(_LONGEST):
                total[n] += self._agreement(own, theirs, n)
        return 10.0 * sum(total) / _LONGEST / len(references)

    def _agreement(self, own: tuple[list[dict[Ngram, float]], list[float], int], theirs: tuple[list[dict[Ngram, float]], list[float], int], n: int) -> float:
        (mine, mine_norms, mine_length), (other, other_norms, other_length) = own, theirs
        shared = sum(min(weight, other[n][ngram]) * other[n][ngram] for ngram, weight in mine[n].items() if ngram in other[n])
        if mine_norms[n] and other_norms[n]:
            shared /= mine_norms[n] * other_norms[n]
        return shared * math.exp(-((mine_length - other_length) ** 2) / (2 * _SIGMA**2))

    def _reference(self, text: tuple[Hashable, ...]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        # a reward asks for the same references again and again
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._vectors(text)
        return found

    def _vectors(self, text: Text) -> tuple[list[dict[Ngram, float]], list[float], int]:
        vectors: list[dict[Ngram, float]] = [{} for _ in range(_LONGEST)]
        for ngram, count in _ngrams(text).items():
            vectors[len(ngram) - 1][ngram] = count * (self._images - math.log(max(1, self._frequencies.get(ngram, 0))))
        norms = [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]
        return vectors, norms, max(0, len(text) - 1)


def _ngrams(text: Text) -> Counter[Ngram]:
    words = tuple(text)
    return Counter(words[start : start + n] for n in range(1, _LONGEST + 1) for start in range(len(words) - n + 1))
