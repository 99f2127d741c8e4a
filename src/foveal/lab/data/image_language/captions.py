"""Scenes of one to three things with five sentences each: two with the names of the things, three with the words of their classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import register_data, seed_of
from ..video._bundle import no_single_image
from ._bundle import CAPTIONS, CaptionBundle, Lexicon
from ._composed import ComposedScenes
from ._regions import WIDTH, Plan, Regions, digest
from ._scene import RELATIONS, holds
from ._things import Thing, Things, load_things, tokens_of, with_article

__all__ = ["SceneCaptions"]

_PARTS = {"test": range(2), "val": range(2, 3), "train": range(3, 10)}
"""Which tenths of all pairs of things the pair of a scene's relation is of."""
_LONGEST = 20


@register_data
@dataclass(frozen=True, kw_only=True)
class SceneCaptions(ComposedScenes):
    """Captions of scenes of cut-out photographs, on photographs that no other split shows, from features of regions that a frozen network made.

    The test has new scenes of known things: pairs of things that no training scene has. ``unseen`` has things that no training scene shows; what they are
    called could not be learned, so its references have words of classes alone. Scenes are composed once and kept in the cache folder.

    Raises:
        ValueError: the cut-outs were not fetched, or the backgrounds or the pretrained network are not installed; numbers that make no scene.
    """

    targets: ClassVar[str] = CAPTIONS
    ranges: ClassVar[Mapping[str, Range]] = {"most": Range(at_least=1, at_most=3)}

    most: int = 3
    """Most things of a scene."""
    train_scenes: int = 2_000
    """Number of training scenes."""
    val_scenes: int = 100
    """Number of validation scenes."""
    test_scenes: int = 300
    """Number of test scenes, and of those of unseen things."""

    def load(self) -> CaptionBundle:
        things = load_things(self.source, self.folder, self.seed)
        named, ambiguous = things.class_of_word()
        counts = {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes, "unseen": self.test_scenes}
        drawn = {split: [self._draw(split, index, things) for index in range(count)] for split, count in counts.items()}
        texts = {split: [self._sentences(each, things, split) for each in scenes] for split, scenes in drawn.items()}
        every = {split: [text for sentences in own for text in sentences] for split, own in texts.items()}
        # of few training scenes many words are not known that the others have
        lexicon = Lexicon.of(every.pop("train"), (text for own in every.values() for text in own))
        splits: dict[str, Any] = {}
        for split, scenes in drawn.items():
            references = [torch.stack([lexicon.encoded(text, _LONGEST, for_training=split == "train") for text in own]) for own in texts[split]]
            splits[split] = _Captioned(self._regions(split, scenes, things), references, self._classes(split, scenes, things))
        further = [f"{', '.join(ambiguous)}: nouns of several classes, which count for none"] if ambiguous else []
        return CaptionBundle(
            train=splits["train"],
            val=splits["val"],
            test=splits["test"],
            classes=things.classes,
            img_size=self.side,
            in_chans=3,
            prepare=no_single_image,
            notes=["scenes are composed", *things.notes, *further],
            probes={"unseen": splits["unseen"]},
            width=WIDTH[self.features],
            lexicon=lexicon,
            length=_LONGEST,
            class_of_word=named,
        )

    def _draw(self, split: str, index: int, things: Things) -> "_Drawn":
        """Things and what the first is to the second. Training scenes have no pair that is kept for another split."""
        rng = np.random.default_rng(seed_of("scene captions", self.seed, split, index))
        pool = things.unseen if split == "unseen" else things.known
        # scenes of one thing hold no pair that could be new
        count = int(rng.integers(1 if split in ("train", "unseen") else min(2, self.most), self.most + 1))
        for _ in range(1_000):
            chosen = rng.choice(len(pool), size=count, replace=False).tolist()
            labels = {pool[place].label for place in chosen}
            if len(labels) == count and self._belongs(split, chosen):
                return _Drawn(tuple(chosen), int(rng.integers(len(RELATIONS))))
        raise InputError(f"no {count} things of different classes were found among {len(pool)} for {split}; ask for fewer things, or give more stamps")

    def _belongs(self, split: str, chosen: Sequence[int]) -> bool:
        if split == "unseen" or len(chosen) < 2:
            return True
        tenths = [seed_of("pair", self.seed, *sorted((a, b))) % 10 for place, a in enumerate(chosen) for b in chosen[place + 1 :]]
        return all(tenth in _PARTS["train"] for tenth in tenths) if split == "train" else tenths[0] in _PARTS[split]

    def _classes(self, split: str, drawn: Sequence["_Drawn"], things: Things) -> Tensor:
        pool, found = things.unseen if split == "unseen" else things.known, torch.zeros(len(drawn), len(things.classes), dtype=torch.bool)
        for row, each in enumerate(drawn):
            found[row, [pool[place].label for place in each.things]] = True
        return found

    def _sentences(self, drawn: "_Drawn", things: Things, split: str) -> list[list[str]]:
        pool = things.unseen if split == "unseen" else things.known
        own = [pool[place] for place in drawn.things]
        named = [] if split == "unseen" else _with_names([thing.name for thing in own], drawn.relation)
        return [tokens_of(text) for text in (*named, *_with_classes([with_article(things.classes[thing.label]) for thing in own], drawn.relation))]

    def _regions(self, split: str, drawn: Sequence["_Drawn"], things: Things) -> Regions:
        plans = [Plan(each.things, partial(_as_said, each.relation)) for each in drawn]
        pool: Sequence[Thing] = things.unseen if split == "unseen" else things.known
        # the relation is a part of the plan, and a condition has no digest
        return self.composed(f"captions-{digest([each.relation for each in drawn])}", split, plans, pool, things, self.most)


@dataclass(frozen=True)
class _Drawn:
    things: tuple[int, ...]
    relation: int


def _as_said(relation: int, boxes: Any) -> bool:
    return len(boxes) < 2 or holds(boxes, relation, 0, 1)


def _with_names(names: Sequence[str], relation: int) -> list[str]:
    if len(names) == 1:
        return [names[0], f"there is {names[0]}"]
    rest = "".join(f" with {name}" for name in names[2:])
    return [f"{names[0]} {RELATIONS[relation]} {names[1]}{rest}", f"{names[1]} {RELATIONS[relation ^ 1]} {names[0]}{rest}"]


def _with_classes(names: Sequence[str], relation: int) -> list[str]:
    if len(names) == 1:
        return [names[0], f"there is {names[0]}", f"a picture of {names[0]}"]
    rest, forth, back = "".join(f" with {name}" for name in names[2:]), RELATIONS[relation], RELATIONS[relation ^ 1]
    return [f"{names[0]} is {forth} {names[1]}{rest}", f"there is {names[0]} {forth} {names[1]}{rest}", f"{names[1]} is {back} {names[0]}{rest}"]


class _Captioned:
    """A split."""

    augments = False

    def __init__(self, regions: Regions, references: list[Tensor], classes: Tensor) -> None:
        self._regions, self.references, self._classes = regions, references, classes

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._regions.inputs(index), {"references": self.references[index], "classes": self._classes[index]}
