"""Captions of scenes say what the pixels show; splits share neither pairs nor things; all is the same again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foveal.lab.data import SceneCaptions
from foveal.lab.data.image_language import captions as module
from foveal.lab.data.image_language._scene import RELATIONS, compose, holds, larger
from foveal.lab.data.image_language._things import _COLORS, load_things, tokens_of, with_article

DATA = replace(SceneCaptions().smoke_data(), train_scenes=60, val_scenes=20, test_scenes=40)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def where(picture: torch.Tensor, color: str) -> tuple[float, float] | None:
    """Middle of the pixels of a color, which is bright beyond any background, column and row."""
    pixels = picture.float() / 255
    near = (pixels - torch.tensor(_COLORS[color]).view(3, 1, 1)).abs().amax(0) < 0.3
    rows, columns = torch.where(near)
    return None if len(rows) < 2 else (columns.float().mean().item(), rows.float().mean().item())


def test_sentences_say_what_the_pixels_show() -> None:
    bundle, checked = DATA.load(), set()
    for index in range(len(bundle.test)):
        inputs, target = bundle.test[index]
        sentences = [bundle.said(row) for row in target["references"]]
        words = sentences[0].split()
        colors = [word for word in words if word in _COLORS]
        assert {bundle.classes[place] for place in target["classes"].nonzero().flatten()} == {word for word in words if word in bundle.classes}
        if len(set(colors)) < len(colors):
            continue
        relation = next(name for name in RELATIONS if name in sentences[0])
        (x0, y0), (x1, y1) = (where(inputs["picture"], color) for color in colors[:2])
        assert {"above": y0 < y1, "below": y0 > y1, "left of": x0 < x1, "right of": x0 > x1}[relation], sentences
        opposite = RELATIONS[RELATIONS.index(relation) ^ 1]
        assert sentences[1].startswith(f"a {colors[1]}")
        assert opposite in sentences[1]
        assert sentences[2].startswith(with_article(words[2]))
        assert not any(color in sentence for color in _COLORS for sentence in sentences[2:])
        checked.add(relation)
    assert checked == set(RELATIONS)


def test_regions_are_of_the_things_and_some_are_elsewhere() -> None:
    bundle = DATA.load()
    for index in range(20):
        inputs, target = bundle.test[index]
        count = int(target["classes"].sum())
        assert inputs["there"].sum() == count + 4
        assert not inputs["regions"][~inputs["there"]].any()
        colors = [word for word in bundle.said(target["references"][0]).split() if word in _COLORS]
        for color in set(colors):
            column, row = where(inputs["picture"], color)
            if colors.count(color) == 1:
                left, top, right, bottom = (64 * inputs["boxes"]).T
                assert ((left < column) & (column < right) & (top < row) & (row < bottom)).any()


def test_splits_share_no_pair_and_no_unseen_thing() -> None:
    data, things = replace(DATA, train_scenes=400, test_scenes=200), load_things("digits", None, 0)
    pairs = {}
    for split, count in (("train", 400), ("val", 20), ("test", 200)):
        drawn = [data._draw(split, index, things).things for index in range(count)]
        told = [chosen if split == "train" else chosen[:2] for chosen in drawn]
        pairs[split] = {frozenset((a, b)) for chosen in told for a in chosen for b in chosen if a != b}
    assert not pairs["train"] & (pairs["test"] | pairs["val"])
    assert not pairs["test"] & pairs["val"]
    bundle = DATA.load()
    assert all(len(bundle.probes["unseen"][n][1]["references"]) == 3 for n in range(5))
    assert len(bundle.test[0][1]["references"]) == 5
    known = {word for thing in things.known for word in tokens_of(thing.name)}
    assert known | {"above", "is", "there"} >= set(bundle.lexicon.words[4 : bundle.lexicon.size]) - {"an", "below", "left", "of", "right", "picture", "with"}


def test_words_that_training_scenes_have_not_are_kept_in_all_references() -> None:
    bundle = replace(DATA, train_scenes=2, val_scenes=12, test_scenes=12).load()
    assert bundle.lexicon.size < len(bundle.lexicon.words) - 10
    for split in (bundle.val, bundle.test, bundle.probes["unseen"]):
        for _, target in (split[n] for n in range(12)):
            for row in target["references"]:
                words = bundle.said(row).split()
                assert "<unknown>" not in words
                assert {bundle.class_of_word[word] for word in words if word in bundle.classes} <= set(target["classes"].nonzero().flatten().tolist())
    assert max(int(row.max()) for _, target in (bundle.train[n] for n in range(2)) for row in target["references"]) < bundle.lexicon.size


def test_it_is_the_same_again_and_is_composed_once(monkeypatch) -> None:
    first = DATA.load()
    monkeypatch.setattr("foveal.lab.data.image_language._regions.compose", lambda *_: pytest.fail("composed again"))
    second = DATA.load()
    for name, value in first.train[7][0].items():
        assert torch.equal(second.train[7][0][name], value)
    with pytest.raises(pytest.fail.Exception, match="composed again"):
        replace(DATA, seed=1).load()


def test_a_scene_has_its_things_apart_where_they_are_to_be() -> None:
    rng = np.random.default_rng(0)
    pixels = [torch.ones(4, 30, 20), torch.ones(4, 10, 30)]
    for _ in range(30):
        scene, boxes = compose(rng, torch.zeros(3, 64, 64), pixels, [True, False], lambda boxes: holds(boxes, 2, 0, 1) and larger(boxes, 1, 0))
        assert boxes[0, 2] <= boxes[1, 0]
        assert (scene[0] > 0).sum() == sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    with pytest.raises(ValueError, match="no place was found for 9 things"):
        compose(rng, torch.zeros(3, 32, 32), [torch.ones(4, 30, 30)] * 9, [False] * 9, lambda boxes: holds(boxes, 0, 0, 1) and holds(boxes, 1, 0, 1))


def test_sentences_of_stamps_that_are_no_names_are_left_out(tmp_path) -> None:
    found = {}
    others = ("Eat your broccoli!", "A peacock (a male peafowl).", "Balsam.", "An orange, bitter.", "A wheel. It rolls.")
    for text in ("A sports car.", "A plumber\u2019s wrench.", *others):
        path = tmp_path / "x.png"
        path.with_suffix(".txt").write_text(f"{text}\nde.utf8=x\n", encoding="utf8")
        found[text] = module_things()._noun_phrase(path)
    assert [name for name in found.values() if name] == ["a sports car", "a plumber's wrench"]
    assert module_things()._noun_phrase(tmp_path / "none.png") is None


def module_things():
    from foveal.lab.data.image_language import _things

    return _things


@pytest.mark.parametrize("change", [{"most": 4}, {"most": 0}, {"train_scenes": 0}, {"side": 8}])
def test_bad_numbers_are_explained(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(DATA, **change)


def test_fetched_things_are_asked_for(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="foveal data fetch tuxpaint-stamps"):
        SceneCaptions().load()
    assert module.CAPTIONS == "captions"
