"""LXMERT's files of pre-training: images with sentences of several sources, some of them questions with answers; regions in TSV, with their objects.

sentences   ``[{"img_id": …, "sentf": {"mscoco": ["…", …], "vqa": ["…", …]}, "labelf": {"vqa": [{"net": 1}, …]}}, …]``, ``lxmert/mscoco_train.json``
answers     ``[{"ans": "net", "dsets": ["vqa", …]}, …]``, ``lxmert/all_ans.json``

As in airsplay/lxmert ``src/pretrain``, read of its code and held against no true file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import Data, register_data
from ..video._bundle import no_single_image
from ._opened import open_all
from ._questions import read_listed
from ._sentence_bundle import SENTENCES, SentenceBundle, exchanged, labels_of
from ._tokens import pieces_of, tokenizer_of
from ._tsv import RegionTsv
from .sentences import RegionSentences

__all__ = ["LxmertSentences"]

_ARTICLES = ("a ", "an ", "the ")
_OTHER_WORDS = {"grey": "gray"}


@dataclass(frozen=True)
class _Told:
    image: str
    text: str
    scores: dict[int, float]


@register_data
@dataclass(frozen=True, kw_only=True)
class LxmertSentences(Data):
    """Sentences about images in LXMERT's files of pre-training.

    Raises:
        ValueError: files that are not there, cut off, or of another form; a sentence without letters; labels that are not as many as sentences; no answer that
            the file of answers has; images without regions; no tokenizer at ``base``, or one without a word for a hidden one.
    """

    targets: ClassVar[str] = SENTENCES
    ranges: ClassVar[dict[str, Range]] = {"max_words": Range(at_least=3)}

    root: Path
    """The folder that the other paths begin in."""
    train: tuple[str, ...] = ("lxmert/mscoco_train.json", "lxmert/mscoco_nominival.json", "lxmert/vgnococo.json")
    """Files of sentences to train on."""
    test: tuple[str, ...] = ("lxmert/mscoco_minival.json",)
    """Those to judge on, for validation and test alike."""
    answers: str = "lxmert/all_ans.json"
    """The file of answers."""
    regions: tuple[str, ...] = ("mscoco_imgfeat/train2014_obj36.tsv", "mscoco_imgfeat/val2014_obj36.tsv", "vg_gqa_imgfeat/vg_gqa_obj36.tsv")
    """TSV files of regions; shards do not say what regions are called."""
    base: str = "bert-base-uncased"
    """A folder, or a name on the Hugging Face hub, with the tokenizer."""
    max_words: int = 20
    """Pieces of words of a sentence, with what begins and ends it; what is behind is cut off."""

    def load(self) -> SentenceBundle:
        answers = _answers(self.root / self.answers)
        numbers = {answer: number for number, answer in enumerate(answers)}
        told = {name: [one for path in paths for one in _read(self.root / path, numbers)] for name, paths in (("train", self.train), ("test", self.test))}
        for name, found in told.items():
            if len({one.image for one in found}) < 2:
                raise InputError(f"a sentence is told from one of another image, so {name} needs sentences of at least two; give it more files")
        if not any(one.scores for one in told["train"]):
            raise InputError(f"no sentence to train on has an answer out of {self.root / self.answers}; give the file that belongs to them")
        tokenizer = tokenizer_of(self.base)
        if tokenizer.mask_token_id is None:
            raise InputError(f"the tokenizer at {self.base} has no word for a hidden one; give that of a BERT")
        images = (one.image for found in told.values() for one in found)
        stores, region_dim = open_all(self.root, self.regions, images, "sentences", RegionTsv)
        splits, notes = {}, []
        for name, found in told.items():
            words, cut = pieces_of(tokenizer, [one.text for one in found], self.max_words, name)
            notes += cut
            splits[name] = _Split(found, words, set(tokenizer.all_special_ids), stores, name == "train")
        return SentenceBundle(
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
            mask=tokenizer.mask_token_id,
            tokenizer=tokenizer,
        )

    def smoke_data(self) -> RegionSentences:
        return RegionSentences(train_scenes=16, val_scenes=20, test_scenes=20)


class _Split:
    def __init__(self, told: Sequence[_Told], words: Sequence[list[int]], marks: set[int], stores: Sequence[RegionTsv], augments: bool) -> None:
        self.augments = augments
        self._told, self._words, self._marks, self._stores = told, words, marks, stores
        self._images = [one.image for one in told]

    def __len__(self) -> int:
        return len(self._told)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        one = self._told[index]
        other = exchanged(index, self._images, self.augments)
        store = next(store for store in self._stores if one.image in store)
        regions, called, words = store[one.image], store.called(one.image), self._words[other]
        sample = {"input_ids": torch.tensor(words), "maskable": torch.tensor([word not in self._marks for word in words])}
        return sample | {"features": regions.features, "boxes": regions.boxes} | called, labels_of(other == index, self._answer(one))

    def _answer(self, one: _Told) -> int:
        """By how much each is worth; the best where nothing is drawn."""
        if not one.scores:
            return -1
        worth = torch.tensor(list(one.scores.values()))
        place = int(torch.multinomial(worth, 1)) if self.augments else int(worth.argmax())
        return list(one.scores)[place]


def _answers(path: Path) -> list[str]:
    found = read_listed(path, "answers")
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) and isinstance(one.get("ans"), str) for one in found):
        raise InputError(f"{path}: expected a list of answers, each as {{'ans': 'net', 'dsets': [...]}}, got {repr(found)[:60]}")
    return list(dict.fromkeys(one["ans"] for one in found))


def _read(path: Path, numbers: dict[str, int]) -> list[_Told]:
    entries = read_listed(path, "a list of images with sentences")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of images with sentences, at least one, got {repr(entries)[:60]}")
    told = []
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("img_id"), str) or not isinstance(entry.get("sentf"), dict):
            raise InputError(f"{where}: expected img_id and sentf, sentences by their source, got {repr(entry)[:60]}")
        labels = entry.get("labelf", {})
        for source, texts in entry["sentf"].items():
            own = labels.get(source) if isinstance(labels, dict) else None
            if not isinstance(texts, list) or (own is not None and (not isinstance(own, list) or len(own) != len(texts))):
                raise InputError(f"{where}: expected a list of sentences of {source}, and as many labels where there are any, got {repr(texts)[:60]}")
            for place, text in enumerate(texts):
                if not isinstance(text, str) or not any(letter.isalnum() for letter in text):
                    raise InputError(f"{where}: expected words as sentence {place} of {source}, got {text!r}")
                told.append(_Told(entry["img_id"], text.strip(), {} if own is None else _scores(own[place], numbers, f"{where}, {source} {place}")))
    return told


def _scores(label: Any, numbers: dict[str, int], where: str) -> dict[int, float]:
    """Of those answers that are known; the published training passes over the others."""
    if not isinstance(label, dict) or not all(isinstance(score, int | float) and not isinstance(score, bool) and 0 < score <= 1 for score in label.values()):
        raise InputError(f"{where}: expected answers with scores above 0 and up to 1, got {repr(label)[:60]}")
    return {numbers[name]: float(score) for answer, score in label.items() if (name := _usual(str(answer))) in numbers}


def _usual(answer: str) -> str:
    """As the published training writes answers."""
    answer = answer.lower().strip().removesuffix(".")
    article = next((article for article in _ARTICLES if answer.startswith(article)), "")
    answer = answer.removeprefix(article).strip()
    return _OTHER_WORDS.get(answer, answer)
