"""VQA, GQA and NLVR2 in the files of LXMERT: questions in JSON, regions in TSV or in shards that were made of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import Data, register_data
from ..video._bundle import no_single_image
from ._bundle import TARGETS, RegionBundle
from ._opened import open_all
from ._questions import Question, read_answers, read_pairs, read_questions
from ._shards import open_regions
from ._tokens import pieces_of, tokenizer_of
from .scenes import RegionScenes

__all__ = ["LxmertPairs", "LxmertQuestions"]

_BASE = "unc-nlp/lxmert-base-uncased"


@register_data
@dataclass(frozen=True, kw_only=True)
class LxmertQuestions(Data):
    """Questions about images in LXMERT's files of VQA or GQA.

    Raises:
        ValueError: see ``read_questions``, ``read_answers`` and ``RegionTsv``; images without regions; no tokenizer at ``base``.
    """

    targets: ClassVar[str] = TARGETS
    ranges: ClassVar[dict[str, Range]] = {"max_words": Range(at_least=3)}

    root: Path
    """The folder that the other paths begin in."""
    train: tuple[str, ...] = ("vqa/train.json", "vqa/nominival.json")
    """Files of questions to train on."""
    test: tuple[str, ...] = ("vqa/minival.json",)
    """Those to judge on, for validation and test alike."""
    answers: str = "vqa/trainval_ans2label.json"
    """The file of answers and their numbers."""
    regions: tuple[str, ...] = ("mscoco_imgfeat/train2014_obj36.tsv", "mscoco_imgfeat/val2014_obj36.tsv")
    """TSV files of regions, or folders of shards, see ``foveal data regions``."""
    base: str = _BASE
    """A folder, or a name on the Hugging Face hub, with the tokenizer."""
    max_words: int = 20
    """Pieces of words of a sentence, with what begins and ends it; what is behind is cut off."""

    def load(self) -> RegionBundle:
        answers = read_answers(self.root / self.answers)
        return _load(self, answers, lambda path: read_questions(path, answers))

    def smoke_data(self) -> RegionScenes:
        return RegionScenes(train_scenes=16, val_scenes=20, test_scenes=20)


@register_data
@dataclass(frozen=True, kw_only=True)
class LxmertPairs(Data):
    """Sentences about two images in LXMERT's files of NLVR2.

    Raises:
        ValueError: see ``read_pairs`` and ``RegionTsv``; images without regions; no tokenizer at ``base``.
    """

    targets: ClassVar[str] = TARGETS
    ranges: ClassVar[dict[str, Range]] = {"max_words": Range(at_least=3)}

    root: Path
    """The folder that the other paths begin in."""
    train: tuple[str, ...] = ("nlvr2/train.json",)
    """Files of sentences to train on."""
    test: tuple[str, ...] = ("nlvr2/valid.json",)
    """Those to judge on, for validation and test alike."""
    regions: tuple[str, ...] = ("nlvr2_imgfeat/train_obj36.tsv", "nlvr2_imgfeat/valid_obj36.tsv")
    """TSV files of regions, or folders of shards, see ``foveal data regions``."""
    base: str = _BASE
    """A folder, or a name on the Hugging Face hub, with the tokenizer."""
    max_words: int = 20
    """Pieces of words of a sentence, with what begins and ends it; what is behind is cut off."""

    def load(self) -> RegionBundle:
        return _load(self, ["false", "true"], read_pairs)

    def smoke_data(self) -> RegionScenes:
        return RegionScenes(images=2, train_scenes=16, val_scenes=20, test_scenes=20)


def _load(data: LxmertQuestions | LxmertPairs, answers: list[str], read: Callable[[Path], list[Question]]) -> RegionBundle:
    # texts first: a fault in them shows before a large file is read
    asked = {name: list(chain(*(read(data.root / path) for path in paths))) for name, paths in (("train", data.train), ("test", data.test))}
    for name, found in asked.items():
        if not found:
            raise InputError(f"no file of questions is given as {name}; give at least one")
    if both := sorted({one.name for one in asked["train"]} & {one.name for one in asked["test"]}):
        raise InputError(f"{len(both)} questions to judge on are among those to train on, such as {both[0]}; give files that share none")
    tokenizer = tokenizer_of(data.base)
    images = (image for found in asked.values() for one in found for image in one.images)
    stores, region_dim = open_all(data.root, data.regions, images, "questions", open_regions)
    splits, notes = {}, []
    for name, found in asked.items():
        words, cut = pieces_of(tokenizer, [one.text for one in found], data.max_words, name)
        notes += cut
        if worthless := sum(not one.scores for one in found):
            notes.append(f"{worthless} of {len(found)} questions of {name} have no answer that counts")
        splits[name] = _Asked(found, words, stores, len(answers))
    return RegionBundle(
        train=splits["train"],
        val=splits["test"],
        test=splits["test"],
        classes=answers,
        img_size=0,
        in_chans=0,
        prepare=no_single_image,
        notes=notes,
        words=len(tokenizer),
        region_dim=region_dim,
        images=len(asked["train"][0].images),
        tokenizer=tokenizer,
        guessing=0.5 if isinstance(data, LxmertPairs) else None,
    )


class _Asked:
    """A split."""

    augments = False

    def __init__(self, questions: Sequence[Question], words: Sequence[Sequence[int]], stores: Sequence[Any], answers: int) -> None:
        self._questions, self._words, self._stores, self._answers = questions, words, stores, answers

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Tensor]:
        one = self._questions[index]
        regions = [next(store[image] for store in self._stores if image in store) for image in one.images]
        scores = torch.zeros(self._answers)
        for answer, score in one.scores.items():
            scores[answer] = score
        inputs = {
            "input_ids": torch.tensor(self._words[index]),
            "features": [image.features for image in regions],
            "boxes": [image.boxes for image in regions],
        }
        return inputs, scores
