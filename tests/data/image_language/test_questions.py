"""Answers of questions about scenes are what the plan and the boxes say, and cannot be known from a question."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal.lab.data import SceneQuestions
from foveal.lab.data.image_language._scene import RELATIONS, compose, holds
from foveal.lab.data.image_language._things import load_things
from foveal.lab.data.image_language.questions import SCENE_KINDS

DATA = replace(SceneQuestions().smoke_data(), train_scenes=16, val_scenes=8, test_scenes=24)
THINGS = load_things("digits", None, 0)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_answers_are_what_the_scene_holds() -> None:
    """Read off the things and their boxes, by other code than made them."""
    seen = Counter()
    for index in range(120):
        asked = DATA.draw("test", index, THINGS)
        names = [THINGS.classes[THINGS.known[place].label] for place in asked.plan.things]
        _, boxes = compose(np.random.default_rng(index), torch.zeros(3, 64, 64), [torch.ones(4, 20, 14)] * len(names), [False] * len(names), asked.plan.fits)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        found = re.fullmatch(r"is there an? (\w+) \?", asked.text)
        if found:
            answer = "yes" if found[1] in names else "no"
        elif found := re.fullmatch(r"how many (\w+) \?", asked.text):
            answer = str(names.count(found[1]))
        elif found := re.fullmatch(r"is the (\w+) larger than the (\w+) \?", asked.text):
            first, second = (boxes[names.index(name)] for name in found.groups())
            answer = "yes" if (first[2:] - first[:2]).max() > (second[2:] - second[:2]).max() else "no"
        else:
            way, name = re.fullmatch(r"what is (above|left of) the (\w+) \?", asked.text).groups()
            axis, at = (1, 0)[way == "left of"], middle[names.index(name)]
            there = [other for other, place in zip(names, middle, strict=True) if at[axis] - place[axis] > abs(at[1 - axis] - place[1 - axis])]
            assert len(there) == 1
            answer = there[0]
        assert answer == asked.answer, asked
        assert len(set(asked.plan.things)) == len(names) <= 4
        seen[asked.kind] += 1
    assert seen == dict.fromkeys(SCENE_KINDS, 30)


def test_a_long_thin_thing_can_be_the_larger_one() -> None:
    """Of any shapes: stamps have saws and spades."""
    asked = next(asked for asked in (DATA.draw("test", index, THINGS) for index in range(99)) if asked.kind == "larger" and asked.answer == "yes")
    shapes = [torch.ones(4, 60, 6), *[torch.ones(4, 40, 40)] * (len(asked.plan.things) - 1)]
    _, boxes = compose(np.random.default_rng(0), torch.zeros(3, 96, 96), shapes, [False] * len(shapes), asked.plan.fits)
    assert (boxes[0, 2:] - boxes[0, :2]).max() >= 4 / 3 * (boxes[1, 2:] - boxes[1, :2]).max()


def by_text(split: str, prior: float, count: int) -> dict[str, Counter]:
    data, found = replace(DATA, prior=prior), defaultdict(Counter)
    for index in range(count):
        asked = data.draw(split, index, THINGS)
        found[asked.text][asked.answer] += 1
    return found


@pytest.mark.parametrize("prior", [0.0, 0.9])
def test_a_question_alone_says_nothing_of_the_test(prior) -> None:
    """The best guess that training gives for each text, on the test: chance, within three standard errors, whatever training prefers."""
    best = {text: counts.most_common(1)[0][0] for text, counts in by_text("train", prior, 4_000).items()}
    right, total, chance = Counter(), Counter(), {"is there": 1 / 2, "is the": 1 / 2, "how many": 1 / 4, "what is": 1 / 9}
    for text, counts in by_text("test", prior, 2_000).items():
        kind = " ".join(text.split()[:2])
        right[kind] += counts[best.get(text, next(iter(counts)))] if text in best else 0
        total[kind] += sum(counts.values()) if text in best else 0
    for kind, share in chance.items():
        assert total[kind] > 300
        assert right[kind] / total[kind] <= share + 3 * (share * (1 - share) / total[kind]) ** 0.5


def test_a_prior_is_in_training_alone() -> None:
    favored = [counts.most_common(1)[0][1] / sum(counts.values()) for text, counts in by_text("train", 0.9, 2_000).items() if sum(counts.values()) > 15]
    assert min(favored) > 0.7
    assert by_text("test", 0.9, 100) == by_text("test", 0.0, 100)
    # another favorite for another text
    assert len({counts.most_common(1)[0][0] for text, counts in by_text("train", 1.0, 400).items() if text.startswith("how many")}) > 1


def test_samples_and_the_control_of_other_scenes() -> None:
    bundle = DATA.load()
    for index in range(24):
        inputs, target = bundle.test[index]
        asked = DATA.draw("test", index, THINGS)
        assert bundle.asked(inputs["question"]) == asked.text.replace(" ?", "?")
        assert bundle.answers[int(target[1:].argmax())] == asked.answer
        assert target[1:].sum() == 1
        assert bundle.kinds[int(target[0])] == asked.kind
        other, same = bundle.probes["shuffled"][index]
        assert torch.equal(same, target)
        assert torch.equal(other["question"], inputs["question"])
        assert torch.equal(other["regions"], bundle.test[(index + 4) % 24][0]["regions"])
    assert bundle.chances == (1 / 2, 1 / 9, 1 / 4, 1 / 2)
    assert holds(np.array([[0, 0, 4, 4], [0, 9, 4, 14]]), RELATIONS.index("above"), 0, 1)


def test_other_scenes_are_others_of_the_same_kind_however_many_there_are() -> None:
    for count in (8, 10, 11):
        bundle = replace(DATA, train_scenes=4, val_scenes=4, test_scenes=count).load()
        regions = [bundle.test[n][0]["regions"] for n in range(count)]
        taken = []
        for index in range(count):
            other = bundle.probes["shuffled"][index][0]["regions"]
            (place,) = [n for n in range(count) if torch.equal(regions[n], other)]
            assert place != index
            assert place % 4 == index % 4
            taken.append(place)
        assert sorted(taken) == list(range(count)), "each scene once"
    few = replace(DATA, train_scenes=4, val_scenes=4, test_scenes=7).load()
    assert few.probes == {}
    assert "shuffled is left out" in few.notes[-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"kinds": ("cont",)}, "did you mean count"), ({"kinds": ()}, "each once"), ({"kinds": ("what", "what")}, "each once"), ({"prior": 1.5}, "prior")],
)
def test_bad_sets_are_explained(change, says) -> None:
    with pytest.raises(ValueError, match=says):
        replace(DATA, **change)


def test_scenes_are_asked_again_what_they_hold() -> None:
    """Every further question of a training scene, read off its things and boxes by other code."""
    data = replace(DATA, train_scenes=60, questions=5)
    bundle, names = data.load(), THINGS.classes
    split, drawn = bundle.train, [data.draw("train", index, THINGS) for index in range(60)]
    assert len(split) == 5 * 60
    plain = replace(data, questions=1).load().train
    seen, answered = Counter(), Counter()
    for index in range(len(split)):
        inputs, target = split[index]
        text, answer, scene = bundle.asked(inputs["question"]).removesuffix("?").strip(), bundle.answers[int(target[1:].argmax())], index // 5
        torch.testing.assert_close(inputs["regions"], plain[scene][0]["regions"])
        if index % 5 == 0:
            assert torch.equal(target, plain[scene][1])
            assert torch.equal(inputs["question"], plain[scene][0]["question"])
            continue
        held = [names[THINGS.known[place].label] for place in drawn[scene].plan.things]
        boxes = split._regions.places[scene][: len(held)]
        middle, longest = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1)
        words = text.split()
        if words[1] == "there":
            assert answer == ("yes" if words[3] in held else "no"), text
            answered[answer] += 1
        elif "larger" in words:
            first, second = held.index(words[2]), held.index(words[6])
            assert held.count(words[2]) == held.count(words[6]) == 1
            assert max(longest[first] / longest[second], longest[second] / longest[first]) >= 4 / 3
            assert answer == ("yes" if longest[first] > longest[second] else "no"), text
        else:
            axis, at = (0, 1)["above" in words], held.index(words[-1])
            so = [n for n, place in zip(held, middle, strict=True) if middle[at][axis] - place[axis] > abs(middle[at][1 - axis] - place[1 - axis])]
            assert so == [answer], text
        seen[int(target[0])] += 1
    assert min(seen[SCENE_KINDS.index(kind)] for kind in ("exists", "what", "larger")) > 10
    assert seen[SCENE_KINDS.index("count")] == 0
    assert 0.35 < answered["yes"] / answered.total() < 0.65
    # evaluation is asked as before
    assert len(bundle.test) == data.test_scenes
    with pytest.raises(ValueError, match="asked again"):
        replace(DATA, kinds=("count",), questions=2)
    favored = replace(data, prior=1.0, kinds=("exists",)).load()
    answers = defaultdict(set)
    for index in range(len(favored.train)):
        inputs, target = favored.train[index]
        if index % 5:
            answers[favored.asked(inputs["question"])].add(int(target[1:].argmax()))
    assert sum(len(found) == 1 for found in answers.values()) > 0.7 * len(answers)
