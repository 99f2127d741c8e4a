"""VQA v2 in its own JSON, with features of regions out of a file.

Accuracy   of an answer: the mean over the ten sets of nine human answers of min(1, matches / 3), so 0, .3, .6, .9, 1 where 0, 1, 2, 3, 4 or more gave it
Classes    answers that are the most frequent one of at least nine training questions (3,129 of VQA v2, as its readers have them)
Differs    Answers are compared in lower case, without articles and punctuation, numbers to ten as digits. The official script spells contractions alike, too.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import Data, register_data
from .._foreign import Entry, read_json
from ..video._bundle import no_single_image
from ._answers import ANSWERS, ImageAnswerBundle
from ._bundle import Lexicon
from ._region_file import RegionFile
from ._things import tokens_of
from .coco_captions import _listed
from .questions import SceneQuestions

__all__ = ["HUMANS", "VQAv2", "answer_scores", "plain_answer"]

HUMANS = 10
"""Answers of a question."""
_KINDS = ("yes/no", "number", "other")
_ARTICLES = ("a", "an", "the")
_NUMBERS = dict(zip(("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), (0, *range(11)), strict=True))


def plain_answer(text: str) -> str:
    """As answers are compared."""
    words = re.sub(r"(?<=\d),(?=\d)|['’]", "", text.lower())
    words = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.:]|_", " ", words)
    return " ".join(str(_NUMBERS.get(word, word)) for word in words.split() if word not in _ARTICLES)


def answer_scores(answers: Sequence[str]) -> dict[str, float]:
    """How right each of ten human answers is, by itself."""
    counts = Counter(answers)
    # of the nine others: one who gave it leaves one less, one who did not leaves all
    return {answer: (n * min(1.0, (n - 1) / 3) + (len(answers) - n) * min(1.0, n / 3)) / len(answers) for answer, n in counts.items()}


@register_data
@dataclass(frozen=True, kw_only=True)
class VQAv2(Data):
    """Questions about photographs. Files are looked at as a whole before the first step. What validates is the test too: VQA's own has no public answers.

    Raises:
        ValueError: a file is not there or not in its format; a question without ten answers or without an image's features; no answer is frequent enough.
    """

    targets: ClassVar[str] = ANSWERS
    ranges: ClassVar[Mapping[str, Range]] = {"at_least": Range(at_least=1), "most_words": Range(at_least=1, at_most=256)}

    root: Path
    """The folder that the paths below begin in."""
    features: str = "regions.tsv"
    """Features of regions of all images, in LXMERT's TSV."""
    questions: str = "v2_OpenEnded_mscoco_{split}2014_questions.json"
    """Files of questions; split is train or val."""
    annotations: str = "v2_mscoco_{split}2014_annotations.json"
    """Files of answers."""
    at_least: int = 9
    """Questions that an answer must be the most frequent one of, to be given at all."""
    most_words: int = 14
    """Longer questions are cut."""

    def load(self) -> ImageAnswerBundle:
        regions = RegionFile(self.root / self.features)
        read = {split: self._read(split, regions) for split in ("train", "val")}
        counts = Counter(plain_answer(each.most_frequent) for each in read["train"])
        answers = tuple(sorted((answer for answer, count in counts.items() if count >= self.at_least and answer), key=lambda answer: (-counts[answer], answer)))
        if not answers:
            raise InputError(f"no answer is the most frequent one of {self.at_least} training questions or more; give more questions, or a smaller at_least")
        lexicon = Lexicon.of((tokens_of(each.text) for each in read["train"]), (tokens_of(each.text) for each in read["val"]))
        place = {answer: number for number, answer in enumerate(answers)}
        kept = [each for each in read["train"] if any(answer in place for answer in each.scores)]
        outside = sum(not any(answer in place for answer in each.scores) for each in read["val"])
        notes = [
            f"{len(answers)} answers can be given",
            f"{len(read['train']) - len(kept)} of {len(read['train'])} training questions, all of whose answers are others, are left out",
            f"{outside} of {len(read['val'])} questions that are judged have no answer that can be given, and count as wrong",
        ]
        splits: dict[str, Any] = {name: _Asked(regions, asked, lexicon, place, self.most_words) for name, asked in (("train", kept), ("val", read["val"]))}
        return ImageAnswerBundle(
            **splits,
            test=splits["val"],
            classes=[],
            img_size=1,
            in_chans=3,
            prepare=no_single_image,
            notes=notes,
            width=regions.width,
            lexicon=lexicon,
            length=self.most_words,
            answers=answers,
            kinds=_KINDS,
        )

    def smoke_data(self) -> Data:
        """Scenes of digits: VQA is not at hand."""
        return SceneQuestions().smoke_data()

    def _read(self, split: str, regions: RegionFile) -> list["_Question"]:
        path, answered = (self.root / name.format(split=split) for name in (self.questions, self.annotations))
        texts: dict[int, tuple[str, int]] = {}
        for number, values in enumerate(_listed(read_json(path), "questions", path)):
            question = Entry(values, path, f"question {number}")
            key, image = question.whole("question_id"), question.whole("image_id")
            question = question.named(f"question {key}")
            if key in texts:
                raise question.wrong("question_id", "one that is not listed before")
            if not tokens_of(question.text("question")):
                raise question.wrong("question", "words, with letters")
            if image not in regions:
                raise InputError(f"{path}: question {key} is about image {image}, of which {regions.path} has no features; add them")
            texts[key] = (question.text("question"), image)
        found = [_question(Entry(values, answered, f"annotation {n}"), texts) for n, values in enumerate(_listed(read_json(answered), "annotations", answered))]
        if len(found) != len(texts) or len({each.key for each in found}) != len(found):
            raise InputError(f"{answered} has {len(found)} annotations of {len({each.key for each in found})} questions, and {path} has {len(texts)} questions")
        return found


@dataclass(frozen=True)
class _Question:
    key: int
    text: str
    image: int
    kind: int
    most_frequent: str
    scores: dict[str, float]


def _question(annotation: Entry, texts: Mapping[int, tuple[str, int]]) -> _Question:
    key = annotation.whole("question_id")
    annotation = annotation.named(f"the annotation of question {key}")
    if key not in texts:
        raise annotation.wrong("question_id", "one that the questions have")
    answers, kind = annotation.need("answers"), annotation.text("answer_type")
    if not isinstance(answers, list) or len(answers) != HUMANS:
        raise annotation.wrong("answers", f"a list of {HUMANS} answers; it has {len(answers) if isinstance(answers, list) else 'none'}")
    if not all(isinstance(each, dict) and isinstance(each.get("answer"), str) for each in answers):
        raise annotation.wrong("answers", "objects with an answer each")
    if kind not in _KINDS:
        raise annotation.wrong("answer_type", f"one of {', '.join(_KINDS)}")
    text, image = texts[key]
    scores = answer_scores([plain_answer(each["answer"]) for each in answers])
    return _Question(key, text, image, _KINDS.index(kind), annotation.text("multiple_choice_answer"), scores)


class _Asked:
    """A split."""

    augments = False

    def __init__(self, regions: RegionFile, asked: Sequence[_Question], lexicon: Lexicon, place: Mapping[str, int], length: int) -> None:
        self._regions, self._asked, self._place = regions, asked, place
        # a word that training questions have not is unknown
        self._questions = [lexicon.encoded(tokens_of(each.text), length, for_training=True).clamp_min(0) for each in asked]

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        own = self._asked[index]
        target = torch.zeros(1 + len(self._place))
        target[0] = own.kind
        for answer, score in own.scores.items():
            if answer in self._place:
                target[1 + self._place[answer]] = score
        return self._regions.inputs(own.image) | {"question": self._questions[index]}, target
