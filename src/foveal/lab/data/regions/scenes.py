"""Scenes of made regions with questions about them: what stands in for LXMERT's files, and a set on which its arms can be compared in minutes.

A scene is some things, each of a shape and a color; a region's features are a fixed random vector of its shape, one of its color, and noise. Nothing is seen:
the set tests how words and regions meet, not vision. The answer is drawn before the scene, evenly among the answers of its question, and a question that is
asked of a pair of things has both of their halves in other things, so that neither the question alone nor a bag of shapes and colors tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._ranges import Range
from .._bundle import Data, register_data, seed_of
from ..video._bundle import no_single_image
from ._bundle import TARGETS, RegionBundle

__all__ = ["COLORS", "SHAPES", "RegionScenes"]

SHAPES = ("ball", "box", "cone", "ring", "star", "tube")
COLORS = {"red": (0.85, 0.2, 0.2), "green": (0.2, 0.65, 0.3), "blue": (0.2, 0.35, 0.85), "yellow": (0.95, 0.8, 0.2), "black": (0.15, 0.15, 0.15)}
_HUES = tuple(COLORS)
KINDS = {1: ("color", "shape", "there", "left"), 2: ("both", "same")}
"""Kinds of questions, by the images of a sentence; they take turns."""
_MARKS = ("[PAD]", "[CLS]", "[SEP]")
_TALK = ("what", "color", "is", "the", "?", "thing", "there", "a", "left", "of", "both", "images", "have", "things", "in", "are", "same")
_WORDS = (*_MARKS, *_TALK, *SHAPES, *_HUES)
_ANSWERS = {1: ("no", "yes", *_HUES, *SHAPES), 2: ("false", "true")}
_DIM = 32

Thing = tuple[int, int]
"""Shape and color."""


@register_data
@dataclass(frozen=True, kw_only=True)
class RegionScenes(Data):
    """Questions about scenes of made regions: colors, shapes, pairs of both, and places."""

    targets: ClassVar[str] = TARGETS
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("train_scenes", "val_scenes", "test_scenes"), Range(at_least=1)),
        "things": Range(at_least=4, at_most=32),
        "noise": Range(at_least=0),
        "prior": Range(at_least=0, below=1),
    }

    images: Literal[1, 2] = 1
    """Of a sentence: 1 are questions with answers, 2 are sentences that are true or false of a pair."""
    things: int = 6
    """Regions of an image."""
    noise: float = 0.5
    """Standard deviation of the noise of features, of which the vectors of shapes and colors have 1."""
    prior: float = 0.0
    """Share of the training questions whose answer is the favorite of that question, and not drawn; validation and test have none."""
    train_scenes: int = 6_000
    """Number of training scenes."""
    val_scenes: int = 500
    """Number of validation scenes."""
    test_scenes: int = 2_000
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def load(self) -> RegionBundle:
        splits: dict[str, Any] = {name: _Scenes(self, name, getattr(self, f"{name}_scenes")) for name in ("train", "val", "test")}
        # even among two of colors, shapes and yes or no, in turn
        guessing = 0.5 if self.images == 2 else (1 / len(COLORS) + 1 / len(SHAPES) + 0.5 + 0.5) / 4
        return RegionBundle(
            **splits,
            classes=list(_ANSWERS[self.images]),
            img_size=0,
            in_chans=0,
            prepare=no_single_image,
            words=len(_WORDS),
            region_dim=_DIM,
            images=self.images,
            names=_WORDS,
            guessing=guessing,
        )

    def compose(self, split: str, index: int) -> tuple[str, str, list[list[Thing]], list[NDArray[np.float32]]]:
        """Question, answer, and the things and boxes of each image."""
        rng = np.random.default_rng(seed_of("region scenes", self.seed, split, index))
        kind = KINDS[self.images][index % len(KINDS[self.images])]
        scene = _Scene(rng, self.things, self._favorite(split, rng))
        question, answer, images = getattr(scene, kind)()
        boxes = []
        for things in images:
            order = rng.permutation(len(things))
            things[:] = [things[place] for place in order]
            boxes.append(scene.places(question, answer, things))
        return question, answer, images, boxes

    def _favorite(self, split: str, rng: np.random.Generator) -> bool:
        return bool(self.prior) and split == "train" and rng.random() < self.prior


class _Scene:
    """Draws a question, its answer, and then things that make it so."""

    def __init__(self, rng: np.random.Generator, things: int, favorite: bool) -> None:
        self.rng, self.count, self.favorite = rng, things, favorite

    def pick(self, question: str, answers: tuple[str, ...] | list[str]) -> int:
        """The number of the answer."""
        return seed_of("favorite", question) % len(answers) if self.favorite else int(self.rng.integers(len(answers)))

    def others(self, count: int, shapes: Any = (), colors: Any = (), pair: Thing | None = None) -> list[Thing]:
        """Things without these shapes, colors, and this pair."""
        allowed = [(s, c) for s in range(len(SHAPES)) for c in range(len(_HUES)) if s not in shapes and c not in colors and (s, c) != pair]
        return [allowed[place] for place in self.rng.integers(len(allowed), size=count)]

    def color(self) -> tuple[str, str, list[list[Thing]]]:
        shape = int(self.rng.integers(len(SHAPES)))
        question = f"what color is the {SHAPES[shape]} ?"
        hue = self.pick(question, _HUES)
        return question, _HUES[hue], [[(shape, hue), *self.others(self.count - 1, shapes=(shape,))]]

    def shape(self) -> tuple[str, str, list[list[Thing]]]:
        hue = int(self.rng.integers(len(_HUES)))
        question = f"what is the {_HUES[hue]} thing ?"
        shape = self.pick(question, SHAPES)
        return question, SHAPES[shape], [[(shape, hue), *self.others(self.count - 1, colors=(hue,))]]

    def there(self) -> tuple[str, str, list[list[Thing]]]:
        shape, hue = int(self.rng.integers(len(SHAPES))), int(self.rng.integers(len(_HUES)))
        question = f"is there a {_HUES[hue]} {SHAPES[shape]} ?"
        yes = self.pick(question, ("no", "yes"))
        # its shape and its color are there in any case
        halves = [
            *self.others(1, shapes=(shape,), colors=set(range(len(_HUES))) - {hue}),
            *self.others(1, shapes=set(range(len(SHAPES))) - {shape}, colors=(hue,)),
        ]
        rest = self.others(self.count - 3, pair=(shape, hue))
        return question, ("no", "yes")[yes], [[*halves, (shape, hue) if yes else self.others(1, pair=(shape, hue))[0], *rest]]

    def left(self) -> tuple[str, str, list[list[Thing]]]:
        one, two = self.rng.permutation(len(SHAPES))[:2].tolist()
        question = f"is the {SHAPES[one]} left of the {SHAPES[two]} ?"
        yes = self.pick(question, ("no", "yes"))
        hues = self.rng.integers(len(_HUES), size=2).tolist()
        return question, ("no", "yes")[yes], [[(one, hues[0]), (two, hues[1]), *self.others(self.count - 2, shapes=(one, two))]]

    def both(self) -> tuple[str, str, list[list[Thing]]]:
        shape = int(self.rng.integers(len(SHAPES)))
        question = f"both images have a {SHAPES[shape]}"
        yes, one = self.pick(question, ("false", "true")), int(self.rng.integers(2))
        images = []
        for image in (0, 1):
            has = yes or image == one
            own = [(shape, int(self.rng.integers(len(_HUES))))] if has else self.others(1, shapes=(shape,))
            images.append([*own, *self.others(self.count - 1, shapes=(shape,))])
        return question, ("false", "true")[yes], images

    def same(self) -> tuple[str, str, list[list[Thing]]]:
        shape = int(self.rng.integers(len(SHAPES)))
        question = f"the {SHAPES[shape]} is the same color in both images"
        yes = self.pick(question, ("false", "true"))
        one = int(self.rng.integers(len(_HUES)))
        two = one if yes else int((one + self.rng.integers(1, len(_HUES))) % len(_HUES))
        return question, ("false", "true")[yes], [[(shape, hue), *self.others(self.count - 1, shapes=(shape,))] for hue in (one, two)]

    def places(self, question: str, answer: str, things: list[Thing]) -> NDArray[np.float32]:
        """Boxes anywhere; where places are asked for, so that the answer is true."""
        size = self.rng.uniform(0.1, 0.25, (len(things), 2))
        corner = self.rng.uniform(0, 1, (len(things), 2)) * (1 - size)
        if " left of " in question:
            words = question.split()
            one, two = (next(n for n, (shape, _) in enumerate(things) if SHAPES[shape] == words[at]) for at in (2, 6))
            # far enough from each other that it can be seen
            near, far = self.rng.uniform(0, 0.3), self.rng.uniform(0.45, 0.75)
            corner[one, 0], corner[two, 0] = (near, far) if answer == "yes" else (far, near)
        return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


class _Scenes:
    """One split."""

    augments = False

    def __init__(self, data: RegionScenes, split: str, count: int) -> None:
        self._number = {word: place for place, word in enumerate(_WORDS)}
        self._answers = _ANSWERS[data.images]
        # what shapes and colors look like is the same in all splits and for all seeds
        look = np.random.default_rng(seed_of("looks of region scenes"))
        self._shapes, self._hues = (look.standard_normal((n, _DIM)).astype(np.float32) for n in (len(SHAPES), len(_HUES)))
        self._made = [data.compose(split, index) for index in range(count)]
        self._data, self._split = data, split

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Tensor]:
        question, answer, images, boxes = self._made[index]
        noise = np.random.default_rng(seed_of("noise of region scenes", self._data.seed, self._split, index))
        features = []
        for things in images:
            shape, hue = (np.array([thing[at] for thing in things]) for at in (0, 1))
            seen = self._shapes[shape] + self._hues[hue] + self._data.noise * noise.standard_normal((len(things), _DIM), dtype=np.float32)
            features.append(torch.from_numpy(seen))
        words = [self._number[word] for word in ("[CLS]", *question.split(), "[SEP]")]
        scores = torch.zeros(len(self._answers))
        scores[self._answers.index(answer)] = 1.0
        tints = [torch.tensor([COLORS[_HUES[hue]] for _, hue in things]) for things in images]
        return {"input_ids": torch.tensor(words), "features": features, "boxes": [torch.from_numpy(one) for one in boxes], "tints": tints}, scores
