"""Sentences about the made scenes of regions: what stands in for LXMERT's files of pre-training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...._ranges import Range
from .._bundle import Data, register_data, seed_of
from ..video._bundle import no_single_image
from ._sentence_bundle import SENTENCES, SentenceBundle, exchanged, labels_of
from .scenes import COLORS, SHAPES, RegionScenes

__all__ = ["RegionSentences"]

_MASK = "[MASK]"


@register_data
@dataclass(frozen=True, kw_only=True)
class RegionSentences(Data):
    """Questions about scenes of :class:`RegionScenes`, with answers, and statements of a thing, by turns; shapes are objects, colors attributes."""

    targets: ClassVar[str] = SENTENCES
    ranges: ClassVar[Mapping[str, Range]] = dict.fromkeys(("train_scenes", "val_scenes", "test_scenes"), Range(at_least=2))

    train_scenes: int = 6_000
    """Number of training scenes."""
    val_scenes: int = 300
    """Number of validation scenes."""
    test_scenes: int = 1_000
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def load(self) -> SentenceBundle:
        counts = {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}
        scenes = RegionScenes(train_scenes=self.train_scenes, val_scenes=self.val_scenes, test_scenes=self.test_scenes, seed=self.seed)
        bundle = scenes.load()
        words = (*bundle.names, _MASK)
        splits: dict[str, Any] = {name: _Sentences(scenes, getattr(bundle, name), name, words) for name in counts}
        return SentenceBundle(
            **splits,
            classes=bundle.classes,
            img_size=0,
            in_chans=0,
            prepare=no_single_image,
            words=len(words),
            region_dim=bundle.region_dim,
            objects=len(SHAPES),
            attributes=len(COLORS),
            mask=len(words) - 1,
        )


class _Sentences:
    def __init__(self, scenes: RegionScenes, asked: Any, split: str, words: tuple[str, ...]) -> None:
        self.augments = split == "train"
        self._asked, self._words = asked, words
        number, hues = {word: place for place, word in enumerate(words)}, list(COLORS)
        self._things: list[Tensor] = []
        self._statements: dict[int, Tensor] = {}
        for index in range(len(asked)):
            _, _, images, _ = scenes.compose(split, index)
            self._things.append(torch.tensor(images[0]))
            # kinds of questions take turns too, of which there is an even number
            if index // 4 % 2:
                shape, hue = images[0][seed_of("stated", scenes.seed, split, index) % len(images[0])]
                text = ("[CLS]", "there", "is", "a", hues[hue], SHAPES[shape], "[SEP]")
                self._statements[index] = torch.tensor([number[word] for word in text])

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        (inputs, scores), things = self._asked[index], self._things[index]
        told = exchanged(index, range(len(self)), self.augments)
        ids = self._statements[told] if told in self._statements else self._asked[told][0]["input_ids"]
        sure = torch.ones(len(things))
        sample = {"input_ids": ids, "maskable": torch.tensor([not self._words[int(word)].startswith("[") for word in ids])}
        sample |= {"features": inputs["features"][0], "boxes": inputs["boxes"][0], "objects": things[:, 0], "attributes": things[:, 1]}
        return sample | {"objects_conf": sure, "attributes_conf": sure}, labels_of(told == index, -1 if index in self._statements else int(scores.argmax()))
