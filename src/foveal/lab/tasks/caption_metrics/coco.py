"""The COCO caption evaluation, out of pycocoevalcap: the numbers that papers print, computed by the code that printed them.

``Bleu``, ``Rouge`` and ``Cider`` are Python. METEOR and SPICE are programs in Java, and SPICE fetches models from the net: they are run where they are asked
for and Java is there, and else named as left out. Captions are taken as they are, words with a space between; papers have PTB's words, which are Java's too.
"""

import contextlib
import io
import shutil
from collections.abc import Sequence
from typing import Any

from ...._errors import InputError, missing_extra

__all__ = ["IN_JAVA", "coco_scores"]

IN_JAVA = ("METEOR", "SPICE")
"""Scores that need Java."""


def coco_scores(captions: Sequence[str], references: Sequence[Sequence[str]], *, java: bool = False) -> tuple[dict[str, float], list[str]]:
    """Scores of a corpus by their usual names, ``Bleu_1`` … ``Bleu_4``, ``ROUGE_L``, ``CIDEr``; and notes of what was left out.

    Args:
        captions: one of each image, words with a space between.
        references: of each image, at least one.
        java: METEOR and SPICE too.

    Raises:
        ValueError: captions and references that are not as many; fewer than two images, by which CIDEr is 0; an image without references.
        MissingExtra: pycocoevalcap is not installed.
    """
    if len(captions) != len(references):
        raise InputError(f"expected references of as many images as there are captions, got {len(references)} and {len(captions)}")
    if len(captions) < 2:
        raise InputError(f"CIDEr weighs n-grams by how few images have them: expected at least 2 captions, got {len(captions)}")
    if empty := [place for place, texts in enumerate(references) if not texts]:
        raise InputError(f"image {empty[0]} has no references; leave it out")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise missing_extra("pycocoevalcap", "captions", "the COCO caption evaluation") from error
    scorers: list[tuple[Sequence[str], Any]] = [(tuple(f"Bleu_{n}" for n in range(1, 5)), Bleu(4)), (("ROUGE_L",), Rouge()), (("CIDEr",), Cider())]
    notes = []
    if java and shutil.which("java") is None:
        notes.append(f"{' and '.join(IN_JAVA)} are programs in Java, which is not on the PATH; they were left out")
    elif java:
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.spice.spice import Spice

        scorers += [(("METEOR",), Meteor()), (("SPICE",), Spice())]
    truth, said = {place: list(texts) for place, texts in enumerate(references)}, {place: [text] for place, text in enumerate(captions)}
    found: dict[str, float] = {}
    for names, scorer in scorers:
        # it prints what it counts
        with contextlib.redirect_stdout(io.StringIO()):
            score, _ = scorer.compute_score(truth, said)
        found |= zip(names, map(float, score if isinstance(score, list | tuple) else [score]), strict=True)
    return found, notes
