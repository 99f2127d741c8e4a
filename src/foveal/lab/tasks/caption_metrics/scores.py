"""Captions and references of a split, kept until all are there: CIDEr-D and BLEU are of a corpus and no means over samples."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import bleu_score

from ...data import CaptionBundle
from .cider import CiderD
from .hallucination import hallucination

__all__ = ["CaptionScores"]

_NONE = -100
_BLEU = 4


class CaptionScores(Metric):
    """``cider`` (CIDEr-D, document frequencies of the references of the split), ``bleu_1`` to ``bleu_4`` of the corpus, ``words`` of a caption; and, where it
    is known what is in a scene, ``hallucinated`` (CHAIR_i) and ``hallucinating_captions`` (CHAIR_s).

    Args:
        bundle: of the captions.
    """

    full_state_update = False
    flat: list[Tensor]

    def __init__(self, bundle: CaptionBundle) -> None:
        super().__init__()
        # not the bundle, whose samples would be copied with it
        self._lexicon, self._end, self._class_of_word = bundle.lexicon, bundle.lexicon.numbers["<end>"], bundle.class_of_word
        self.add_state("flat", default=[], dist_reduce_fx="cat")

    def update(self, said: Tensor, targets: list[dict[str, Tensor]]) -> None:
        """Captions ``(B, T)``, −100 behind the end, and the targets of their samples."""
        for words, target in zip(said.tolist(), targets, strict=True):
            references = [self._plain(row) for row in target["references"].tolist() if row[0] != _NONE]
            there = target["classes"].nonzero().flatten().tolist()
            # one row of numbers, whose parts say how long they are: parts of several processes are joined end to end
            row = [number for part in (self._plain(words), there, [len(references)], *references) for number in (len(part), *part)]
            self.flat.append(torch.tensor(row, device=said.device))

    def compute(self) -> dict[str, float]:
        captions, there, references = self._read(torch.cat(list(self.flat)) if isinstance(self.flat, list) else self.flat)
        scorer = CiderD(references)
        scores = [scorer.score(caption, own) for caption, own in zip(captions, references, strict=True)]
        texts, theirs = [self._text(caption) for caption in captions], [[self._text(each) for each in own] for own in references]
        found = {"cider": sum(scores) / len(scores)}
        found |= {f"bleu_{n}": float(bleu_score(texts, theirs, n_gram=n)) for n in range(1, _BLEU + 1)}
        found["words"] = sum(map(len, captions)) / len(captions)
        if self._class_of_word:
            counted = hallucination([text.split() for text in texts], there, self._class_of_word)
            shares = {"hallucinated": counted.of_things, "hallucinating_captions": counted.of_captions}
            found |= {name: share for name, share in shares.items() if share is not None}
        return found

    def _plain(self, row: list[int]) -> list[int]:
        return [word for word in row if word not in (_NONE, self._end)]

    def _text(self, words: list[int]) -> str:
        return " ".join(self._lexicon.words[word] for word in words)

    @staticmethod
    def _read(flat: Tensor) -> tuple[list[list[int]], list[set[int]], list[list[list[int]]]]:
        numbers = iter(flat.tolist())

        def part(length: int) -> list[int]:
            return [next(numbers) for _ in range(length)]

        captions: list[list[int]] = []
        there: list[set[int]] = []
        references: list[list[list[int]]] = []
        for length in numbers:
            captions.append(part(length))
            there.append(set(part(next(numbers))))
            next(numbers)
            references.append([part(next(numbers)) for _ in range(next(numbers))])
        return captions, there, references
