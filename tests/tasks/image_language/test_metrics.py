"""CIDEr-D against a slow count of every n-gram, and its limits; hallucination by hand."""

import itertools
import math
import random

import pytest
import torch

from foveal.lab.data import SceneCaptions
from foveal.lab.tasks.caption_metrics import CaptionScores, CiderD, document_frequencies, hallucination

WORDS = ["a", "b", "c", "d", "e", "f"]


def corpus(seed: int, images: int = 20) -> tuple[list[list[str]], list[list[list[str]]]]:
    drawn = random.Random(seed)
    texts = lambda: [drawn.choice(WORDS) for _ in range(drawn.randint(1, 9))]  # noqa: E731
    return [texts() for _ in range(images)], [[texts() for _ in range(drawn.randint(1, 5))] for _ in range(images)]


def slow_cider(said: list[str], references: list[list[str]], every: list[list[list[str]]]) -> float:
    """The formula, with a vector over all n-grams that could be said."""

    def count(text: list[str], ngram: tuple[str, ...]) -> int:
        return sum(tuple(text[place : place + len(ngram)]) == ngram for place in range(len(text)))

    total = 0.0
    for n in (1, 2, 3, 4):
        ngrams = {tuple(text[place : place + n]) for text in (said, *references) for place in range(len(text) - n + 1)}
        weight = {ngram: math.log(len(every)) - math.log(max(1, sum(any(count(text, ngram) for text in own) for own in every))) for ngram in ngrams}
        for reference in references:
            h, r = ({ngram: count(text, ngram) * weight[ngram] for ngram in ngrams} for text in (said, reference))
            over = sum(min(h[ngram], r[ngram]) * r[ngram] for ngram in ngrams)
            norms = math.sqrt(sum(value**2 for value in h.values())) * math.sqrt(sum(value**2 for value in r.values()))
            bigrams = [sum(1 for _ in itertools.pairwise(text)) for text in (said, reference)]
            total += (over / norms if norms else 0.0) * math.exp(-((bigrams[0] - bigrams[1]) ** 2) / (2 * 6.0**2)) / len(references)
    return 10 * total / 4


@pytest.mark.parametrize("seed", range(3))
def test_cider_is_the_formula(seed) -> None:
    said, references = corpus(seed)
    scorer = CiderD(references)
    found = [scorer.score(caption, own) for caption, own in zip(said, references, strict=True)]
    want = [slow_cider(caption, own, references) for caption, own in zip(said, references, strict=True)]
    assert found == pytest.approx(want, abs=1e-12)
    assert max(found) > 1


def test_cider_at_its_limits() -> None:
    references = [[["a", "dog", "runs", "far"]], [["a", "cat", "sleeps", "here"]], [["a", "bird"]]]
    scorer = CiderD(references)
    # as the reference itself in all n-grams
    assert scorer.score(references[0][0], references[0]) == pytest.approx(10)
    # it has no n-grams of three and four words
    assert scorer.score(references[2][0], references[2]) == pytest.approx(5)
    assert scorer.score([], references[0]) == 0
    # every image has it, so it weighs nothing
    assert scorer.score(["a"], references[0]) == 0
    # a word that is said again is clipped
    assert scorer.score(["dog", "dog", "dog", "dog"], references[0]) < scorer.score(["dog", "runs", "far"], references[0])
    assert document_frequencies([[["x", "x"], ["x"]]])[("x",)] == 1, "an image counts once"
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        CiderD(references[:1])
    with pytest.raises(ValueError, match="without references"):
        CiderD([*references, []])
    with pytest.raises(ValueError, match="without references"):
        scorer.score(["a"], [])


def test_things_that_are_not_there_are_counted() -> None:
    nouns = {"cat": 0, "tabby": 0, "dog": 1, "bird": 2}
    captions = [["a", "cat", "and", "a", "tabby", "above", "a", "dog"], ["a", "red", "bird"], ["nothing", "here"], ["a", "dog"]]
    found = hallucination(captions, [{0}, {2}, {1}, {0, 2}], nouns)
    assert (found.named, found.absent, found.captions, found.with_absent) == (4, 2, 4, 2)
    assert (found.of_things, found.of_captions) == (0.5, 0.5)
    assert hallucination([["x"]], [{0}], nouns).of_things is None


def test_scores_are_of_the_whole_split_in_whatever_pieces(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    bundle = SceneCaptions(test_scenes=6).smoke_data().load()
    targets = [bundle.test[n][1] for n in range(6)]
    said = torch.stack([target["references"][n % 5] for n, target in enumerate(targets)])
    said[0] = -100
    whole, pieces = CaptionScores(bundle), CaptionScores(bundle)
    whole.update(said, targets)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        pieces.update(said[part], targets[part])
    found = whole.compute()
    assert pieces.compute() == found
    texts = [[bundle.said(row).split() for row in target["references"]] for target in targets]
    captions = [bundle.said(row).split() for row in said]
    assert found["cider"] == pytest.approx(sum(slow_cider(caption, own, texts) for caption, own in zip(captions, texts, strict=True)) / 6)
    assert found["hallucinated"] == 0
    # all words that are said are of references, and five of six captions are long enough
    assert found["bleu_1"] == pytest.approx(math.exp(1 - _nearest(captions, texts) / sum(map(len, captions))))
    assert found["words"] == sum(map(len, captions)) / 6


def _nearest(captions: list[list[str]], texts: list[list[list[str]]]) -> int:
    return sum(min((abs(len(one) - len(caption)), len(one)) for one in own)[1] for caption, own in zip(captions, texts, strict=True))
