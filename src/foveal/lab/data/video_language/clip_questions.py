"""Clips of two digits that step around a square, a bright one and a dim one, and questions about them in words.

Three of four frames' cells are empty or hold one digit, so that all that is asked can be seen; the tower, which was taught the bright digit alone, says in its
last layer little of the dim one. What it lost on the way stands in its earlier layers, which is what probes are for. Answers to a kind of question are drawn
evenly and before the clip is made, so that a question alone says nothing. Digits of training, validation and test clips are others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError, unknown
from ...._ranges import Range
from .._bundle import Data, Split, register_data, seed_of
from ..cluttered import _resize
from ..digits import Images, Labels, load_digits, split_by_class
from ..video._bundle import no_single_image
from ._bundle import TARGETS, WORDS_OF_FORM, AnswerBundle
from ._tower import Features, tower_of

__all__ = ["KINDS", "ClipQuestions"]

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WAYS = ("clockwise", "counter clockwise")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dim": ("which digit is dim ?", _DIGITS),
    "bright": ("which digit is bright ?", _DIGITS),
    "direction": ("how does bright move ?", _WAYS),
    "dim direction": ("how does dim move ?", _WAYS),
}
"""Kinds of questions: what is asked, and what can be answered. All are of as many words."""
_CELLS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
"""Row and column of the four cells, clockwise."""


@register_data
@dataclass(frozen=True, kw_only=True)
class ClipQuestions(Data):
    """Questions about clips of moving digits, and a tower that is trained on single frames when the set is first loaded.

    The tower and what it makes of every frame lie in the cache folder under a hash of all that decides them; the features are mapped into memory.

    Raises:
        ValueError: the numbers make no clip; a kind of question that is not known.
    """

    targets: ClassVar[str] = TARGETS
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("train_clips", "val_clips", "test_clips", "tower_steps", "num_frames"), Range(at_least=1)),
        "dim_level": Range(above=0, below=1),
        "noise": Range(at_least=0),
        "cell": Range(at_least=4, at_most=64),
    }

    source: Literal["digits", "mnist"] = "digits"
    """Which digits: digits has 1,797 of 8×8 pixels, mnist 5,000 of 28×28."""
    cell: int = 8
    """Side of a digit, and of a patch of the tower; a frame is two by two of them."""
    num_frames: int = 3
    """Frames of a clip."""
    kinds: tuple[str, ...] = ("dim", "bright", "direction")
    """What is asked: ``dim`` and ``bright``, which digit that is; ``direction`` and ``dim direction``, which way it goes."""
    dim_level: float = 0.6
    """Brightness of the dim digit; the other has 1."""
    noise: float = 0.15
    """Standard deviation of the noise of each pixel, on the same scale."""
    tower_steps: int = 600
    """Steps in which the tower is taught to name the bright digit of a frame."""
    train_clips: int = 4_000
    """Number of training clips."""
    val_clips: int = 400
    """Number of validation clips."""
    test_clips: int = 1_000
    """Number of test clips."""
    seed: int = 0
    """Decides everything about the set that is random, and the tower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown("kind of question", kind, KINDS)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"expected kinds of questions, each once, out of {', '.join(KINDS)}; got {', '.join(self.kinds) or 'none'}")

    def smoke_data(self) -> "ClipQuestions":
        few = super().smoke_data()
        assert isinstance(few, ClipQuestions), "the same with other numbers"
        return few if few.tower_steps <= 20 else replace(few, tower_steps=20)

    def load(self) -> AnswerBundle:
        """Read the digits; train the tower and run it over all frames, where the cache does not have them."""
        images, labels = load_digits(self.source)
        images = _resize(images, self.cell) if images.shape[-1] != self.cell else images
        parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("sources", self.source, self.seed)))
        digits = {name: (images[part], labels[part]) for name, part in zip(("train", "val", "test"), parts, strict=True)}
        tower = tower_of(self, *digits["train"])
        counts = {"train": self.train_clips, "val": self.val_clips, "test": self.test_clips}
        words = _vocabulary()
        splits: dict[str, Any] = {}
        for name, count in counts.items():
            clips = [self.compose(name, index, *digits[name]) for index in range(count)]
            features = Features.of(tower, np.stack([frames for frames, _, _ in clips]), self, name)
            splits[name] = _Clips([(kind, answer) for _, kind, answer in clips], features, self.kinds, words)
        return AnswerBundle(
            **splits,
            classes=[],
            img_size=2 * self.cell,
            in_chans=1,
            prepare=no_single_image,
            probes={name: _Reordered(splits["test"], order) for name, order in _ORDERS.items()},
            num_frames=self.num_frames,
            tower=tower,
            words=words,
            kinds=self.kinds,
            chances=tuple(1 / len(KINDS[kind][1]) for kind in self.kinds),
            answer_words=_ANSWER_WORDS,
        )

    def compose(self, split: str, index: int, images: Images, labels: Labels) -> tuple[NDArray[np.uint8], int, int]:
        """Frames ``(T, side, side)``, the number of the kind of question among :attr:`kinds`, and of the answer. Kinds take turns; answers are even."""
        rng = np.random.default_rng(seed_of("clip questions", self.seed, split, index))
        named, ways = rng.integers(10, size=2), rng.integers(2, size=2)
        steps = 1 - 2 * ways
        # so that the two never stand in one cell
        start, apart = rng.integers(4), rng.integers(1, 4) if ways[0] == ways[1] else 2 * rng.integers(2) + 1
        frames = np.zeros((self.num_frames, 2 * self.cell, 2 * self.cell), np.float32)
        for digit, level, step, first in zip(named, (1.0, self.dim_level), steps, (start, start + apart), strict=True):
            picture = images[rng.choice(np.flatnonzero(labels == digit))].astype(np.float32) / 255 * level
            for time in range(self.num_frames):
                row, column = self.cell * _CELLS[(first + time * step) % 4]
                frames[time, row : row + self.cell, column : column + self.cell] = picture
        frames += self.noise * rng.standard_normal(frames.shape, dtype=np.float32)
        kind = index % len(self.kinds)
        answer = {"bright": named[0], "dim": named[1], "direction": ways[0], "dim direction": ways[1]}[self.kinds[kind]]
        return (frames.clip(0, 1) * 255).astype(np.uint8), kind, int(answer)


def _vocabulary() -> tuple[str, ...]:
    texts = [text for question, answers in KINDS.values() for text in (question, *answers)]
    return (*WORDS_OF_FORM, *dict.fromkeys(word for text in texts for word in text.split()))


_ANSWER_WORDS = 1 + max(len(answer.split()) for _, answers in KINDS.values() for answer in answers)


class _Clips:
    """One split, as the tower sees it."""

    augments = False

    def __init__(self, asked: list[tuple[int, int]], features: Features, kinds: tuple[str, ...], words: tuple[str, ...]) -> None:
        self._asked, self._features = asked, features
        number = {word: place for place, word in enumerate(words)}
        self._questions = [torch.tensor([number[word] for word in KINDS[kind][0].split()]) for kind in kinds]
        self._answers = [[_padded([number[word] for word in answer.split()], number["<end>"]) for answer in KINDS[kind][1]] for kind in kinds]

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        kind, answer = self._asked[index]
        inputs = {"question": self._questions[kind], "layers": self._features.layers[index], "clip": self._features.clip(index)}
        return inputs, torch.cat([torch.tensor([kind]), self._answers[kind][answer]])


def _padded(answer: list[int], end: int) -> Tensor:
    return torch.tensor([*answer, end, *[-100] * (_ANSWER_WORDS - len(answer) - 1)])


class _Reordered:
    """The same questions about clips whose frames come in another order."""

    augments = False

    def __init__(self, split: Split, order: Any) -> None:
        self._split, self._order = split, order

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, target = self._split[index]
        order = self._order(len(inputs["clip"]), index)
        return inputs | {"layers": inputs["layers"][:, order], "clip": inputs["clip"][order]}, target


def _drawn_order(count: int, index: int, *, reverse: bool) -> Tensor:
    if reverse:
        return torch.arange(count - 1, -1, -1)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of("order of frames", index)))


_ORDERS = {"shuffled": partial(_drawn_order, reverse=False), "reversed": partial(_drawn_order, reverse=True)}
