"""Questions about scenes whose answers are drawn first and evenly, so that a question alone says nothing; or, in training, not evenly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...._errors import InputError, unknown
from ...._ranges import Range
from .._bundle import Split, register_data, seed_of
from ..video._bundle import no_single_image
from ._answers import ANSWERS, ImageAnswerBundle
from ._asked_again import AGAIN, Candidates, asked_again
from ._bundle import Lexicon
from ._composed import ComposedScenes
from ._regions import WIDTH, Plan, Regions, digest
from ._scene import RELATIONS, Boxes, Condition, holds, larger
from ._things import Things, load_things, tokens_of, with_article

__all__ = ["SCENE_KINDS", "SceneQuestions"]

SCENE_KINDS = ("exists", "what", "count", "larger")
"""Is there one? What is left of it or above it? How many are there? Is it larger than the other?"""
_YES, _NO = "yes", "no"
_COUNTS = ("0", "1", "2", "3")
_ASKED_RELATIONS = (0, 2)
_LENGTH = 10


@register_data
@dataclass(frozen=True, kw_only=True)
class SceneQuestions(ComposedScenes):
    """Questions about scenes of cut-out photographs. For every text of a question its answers are equally likely in the test, whatever they are in training.

    ``shuffled`` asks the test's questions of other scenes. Scenes are composed once and kept in the cache folder.

    Raises:
        ValueError: the cut-outs were not fetched, or the backgrounds or the pretrained network are not installed; numbers that make no set; an unknown kind.
    """

    targets: ClassVar[str] = ANSWERS
    ranges: ClassVar[Mapping[str, Range]] = {"prior": Range(at_least=0, at_most=1), "questions": Range(at_least=1)}

    kinds: tuple[str, ...] = SCENE_KINDS
    """What is asked: ``exists``, ``what`` is left of or above a thing, ``count``, and which is ``larger``."""
    prior: float = 0.0
    """In training, how often the answer is the one that this text of a question favors: a prior of language that the test has not. 0: never."""
    train_scenes: int = 3_000
    """Number of training scenes, a question each."""
    val_scenes: int = 200
    """Number of validation scenes."""
    test_scenes: int = 600
    """Number of test scenes."""
    questions: int = 1
    """Asked of each training scene: the one that it is made for, and others that it happens to answer; of all kinds but ``count``, in turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            if kind not in SCENE_KINDS:
                raise unknown("kind of question", kind, SCENE_KINDS)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"expected kinds of questions, each once, out of {', '.join(SCENE_KINDS)}; got {', '.join(self.kinds) or 'none'}")
        if self.questions > 1 and not set(self.kinds) & set(AGAIN):
            raise InputError(f"scenes are asked again by {', '.join(AGAIN)}, of which kinds has none; leave questions at 1")

    def load(self) -> ImageAnswerBundle:
        things = load_things(self.source, self.folder, self.seed)
        answers = (_YES, _NO, *_COUNTS, *things.classes)
        counts = {"train": self.train_scenes, "val": self.val_scenes, "test": self.test_scenes}
        drawn = {split: [self.draw(split, index, things) for index in range(count)] for split, count in counts.items()}
        # every text that could be asked, so that a test has no other word
        lexicon = Lexicon.of(tokens_of(text) for text in _texts(things.classes))
        splits: dict[str, Any] = {}
        for split, asked in drawn.items():
            name = f"questions-{digest([seed_of(each.text, each.answer) for each in asked])}"
            again = split == "train" and self.questions > 1
            regions = self.composed(name, split, [each.plan for each in asked], things.known, things, most=4, places=again)
            every = self._again(asked, regions, things) if again else list(enumerate(asked))
            told = [(scene, self.kinds.index(each.kind), each.text, answers.index(each.answer)) for scene, each in every]
            splits[split] = _Asked(regions, told, lexicon, len(answers))
        # of one scene of a kind there is no other
        others: dict[str, Split] = {"shuffled": _OtherScenes(splits["test"], len(self.kinds))} if self.test_scenes >= 2 * len(self.kinds) else {}
        notes = [f"in training {self.prior:.0%} of the answers are those that their question favors"] if self.prior else []
        notes += [] if others else ["too few test scenes to exchange them: shuffled is left out"]
        return ImageAnswerBundle(
            **splits,
            classes=[],
            img_size=self.side,
            in_chans=3,
            prepare=no_single_image,
            notes=["scenes are composed", *things.notes, *notes],
            probes=others,
            width=WIDTH[self.features],
            lexicon=lexicon,
            length=_LENGTH,
            answers=answers,
            kinds=self.kinds,
            chances=tuple({"exists": 1 / 2, "what": 1 / (len(things.classes) - 1), "count": 1 / len(_COUNTS), "larger": 1 / 2}[kind] for kind in self.kinds),
        )

    def draw(self, split: str, index: int, things: Things) -> "Asked":
        """A question, its answer, and what the scene is to hold. Kinds take turns."""
        rng = np.random.default_rng(seed_of("scene questions", self.seed, split, index))
        kind, names = self.kinds[index % len(self.kinds)], things.classes
        asked, other = rng.choice(len(names), size=2, replace=False).tolist()
        relation = int(rng.choice(_ASKED_RELATIONS))
        text = _text(kind, names[asked], names[other], relation)
        possible = _possible(kind, names[asked], names)
        answer = possible[int(rng.integers(len(possible)))]
        if split == "train" and rng.random() < self.prior:
            answer = self._favorite(text, possible)
        labels, fits = _scene(kind, answer, asked, other, relation, names)
        free = [label for label in range(len(names)) if label not in (asked, other, *labels)]
        # as many other things whatever the answer is, but for a scene of nothing
        more = {"exists": (int(answer == _NO), 3), "count": (1, 1 if len(labels) == 3 else 2), "what": (1, 1), "larger": (0, 2)}
        extra = more[kind][0] + int(rng.integers(more[kind][1]))
        labels = [*labels, *rng.choice(free, size=extra, replace=False).tolist()]
        return Asked(kind, text, answer, Plan(tuple(_pick(rng, things, labels)), fits))

    def _favorite(self, text: str, possible: Sequence[str]) -> str:
        return possible[seed_of("favorite", self.seed, text) % len(possible)]

    def _again(self, drawn: Sequence["Asked"], regions: Regions, things: Things) -> list[tuple[int, "Asked"]]:
        """Each scene with what it was made for, and with further questions."""
        assert regions.places is not None, "kept where scenes are asked again"
        names, kinds, every = things.classes, [kind for kind in AGAIN if kind in self.kinds], list[tuple[int, Asked]]()
        for scene, first in enumerate(drawn):
            every.append((scene, first))
            labels = [things.known[place].label for place in first.plan.things]
            for turn in range(1, self.questions):
                rng = np.random.default_rng(seed_of("asked again", self.seed, scene, turn))
                # of a scene that leaves a kind open another is asked, and if all are open the first again
                order = [kinds[(scene + turn + step) % len(kinds)] for step in range(len(kinds))]
                boxes = regions.places[scene][: len(labels)]
                found = next(((kind, can) for kind in order if (can := asked_again(rng, kind, labels, boxes, names, _text))), None)
                every.append((scene, first if found is None else self._chosen(rng, *found, first.plan, names)))
        return every

    def _chosen(self, rng: np.random.Generator, kind: str, candidates: Candidates, plan: Plan, names: Sequence[str]) -> "Asked":
        if rng.random() < self.prior:
            every = [pair for own in candidates.values() for pair in own]
            favored = [(text, answer) for text, answer in every if answer == self._favorite(text, _possible(kind, text.split()[-2], names))]
            candidates = {"any": favored} if favored else candidates
        own = list(candidates.values())[int(rng.integers(len(candidates)))]
        text, answer = own[int(rng.integers(len(own)))]
        return Asked(kind, text, answer, plan)


@dataclass(frozen=True)
class Asked:
    """A question and the scene that it is asked of."""

    kind: str
    text: str
    answer: str
    plan: Plan = field(compare=False)


def _possible(kind: str, name: str, names: Sequence[str]) -> Sequence[str]:
    """Answers of a question about a class."""
    if kind == "what":
        return tuple(each for each in names if each != name)
    return _COUNTS if kind == "count" else (_YES, _NO)


def _text(kind: str, name: str, other: str, relation: int) -> str:
    texts = {
        "exists": f"is there {with_article(name)} ?",
        "what": f"what is {RELATIONS[relation]} the {name} ?",
        "count": f"how many {name} ?",
        "larger": f"is the {name} larger than the {other} ?",
    }
    return texts[kind]


def _texts(names: Sequence[str]) -> list[str]:
    return [_text(kind, name, other, relation) for kind in SCENE_KINDS for name in names for other in names for relation in _ASKED_RELATIONS]


def _scene(kind: str, answer: str, asked: int, other: int, relation: int, names: Sequence[str]) -> tuple[list[int], Condition]:
    """Classes of the things that the answer needs, and how they lie."""
    if kind == "exists":
        return [asked] * (answer == _YES), _anyhow
    if kind == "count":
        return [asked] * int(answer), _anyhow
    if kind == "larger":
        first, second = (0, 1) if answer == _YES else (1, 0)
        return [asked, other], partial(_larger, first, second)
    return [names.index(answer), asked], partial(_only_one_so, relation)


def _anyhow(boxes: Boxes) -> bool:
    return True


def _larger(first: int, second: int, boxes: Boxes) -> bool:
    return larger(boxes, first, second)


def _only_one_so(relation: int, boxes: Boxes) -> bool:
    """The first thing is so to the second, and every other one is beyond doubt something else."""
    others = [each for each in range(len(RELATIONS)) if each != relation]
    return holds(boxes, relation, 0, 1) and all(any(holds(boxes, each, place, 1) for each in others) for place in range(2, len(boxes)))


def _pick(rng: np.random.Generator, things: Things, labels: Sequence[int]) -> list[int]:
    """Different known things of these classes."""
    chosen: list[int] = []
    for label in labels:
        own = [place for place, thing in enumerate(things.known) if thing.label == label and place not in chosen]
        if not own:
            raise InputError(f"there are fewer things of the class {things.classes[label]} than a scene needs; give more stamps, or leave out the kind count")
        chosen.append(int(rng.choice(own)))
    return chosen


class _Asked:
    """A split."""

    augments = False

    def __init__(self, regions: Regions, asked: Sequence[tuple[int, int, str, int]], lexicon: Lexicon, answers: int) -> None:
        self._regions = regions
        self._questions = [lexicon.encoded(tokens_of(text), _LENGTH).clamp_min(0) for _, _, text, _ in asked]
        self._targets = [torch.cat([torch.tensor([float(kind)]), torch.eye(answers)[answer]]) for _, kind, _, answer in asked]
        self._scenes = [scene for scene, _, _, _ in asked]

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        return self._regions.inputs(self._scenes[index]) | {"question": self._questions[index]}, self._targets[index]


class _OtherScenes:
    """The same questions and answers with the scenes of others of their kind; of each kind there must be two."""

    augments = False

    def __init__(self, split: Split, step: int) -> None:
        self._split, self._step = split, step

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, target = self._split[index]
        # kinds take turns, so that the next of a kind is a round further, and behind the last comes the first of its kind
        following = index + self._step
        other, _ = self._split[following if following < len(self._split) else index % self._step]
        return other | {"question": inputs["question"]}, target
