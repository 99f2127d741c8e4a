"""Classes in contexts: who is where, how often, and in which split."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import NICO, ContextedDigits, ImageNet9
from foveal.lab.data.contexts.imagenet9 import NINE
from foveal.lab.data.contexts.nico import NICO_CONTEXTS

# -- digits --------------------------------------------------------------------------------------------------------------------------------------

SMALL = ContextedDigits(source="digits", train_scenes=3000, val_scenes=400, test_scenes=1500)


@pytest.fixture(scope="module")
def digits():
    return SMALL.load()


def test_contexts_are_as_frequent_as_the_protocol_says(digits) -> None:
    want = np.array([0.02 ** (i / 6) for i in range(7)] + [0.0] * 3)
    for split in (digits.train, digits.probes["iid"]):
        share = np.bincount(split.offsets, minlength=10) / len(split)
        np.testing.assert_allclose(share, want / want.sum(), atol=4 * 0.5 / len(split) ** 0.5)
        assert not share[7:].any()
    for split in (digits.val, digits.test):
        np.testing.assert_allclose(np.bincount(split.offsets, minlength=10) / len(split), 0.1, atol=4 * 0.3 / len(split) ** 0.5)
    np.testing.assert_allclose(np.bincount(digits.train.labels) / len(digits.train), 0.1, atol=0.025)


def test_parts_of_the_test_are_its_scenes_by_context(digits) -> None:
    groups = {"majority": {0}, "minor": set(range(1, 7)), "unseen": {7, 8, 9}}
    for name, offsets in groups.items():
        members = [i for i, offset in enumerate(digits.test.offsets) if offset in offsets]
        part = digits.probes[name]
        assert len(part) == len(members)
        for n in (0, len(members) - 1):
            image, label = part[n]
            assert torch.equal(image, digits.test[members[n]][0])
            assert label == digits.test.labels[members[n]]


def test_the_context_can_be_read_off_the_background_and_the_class_cannot(digits) -> None:
    """Mean color tells the context: it is what a lazy network reads. In the test it says nothing of the class."""

    def colors(split) -> tuple[torch.Tensor, np.ndarray]:
        return torch.stack([split[i][0].mean((1, 2)) for i in range(len(split))]), (split.labels + split.offsets) % 10

    seen, contexts = colors(digits.train)
    centers = torch.stack([seen[contexts == c].mean(0) for c in range(10)])
    tested, truth = colors(digits.test)
    read = torch.cdist(tested, centers).argmin(1).numpy()
    assert (read == truth).mean() > 0.9
    assert (read == digits.test.labels).mean() < 0.15


def test_scenes_are_the_same_again_and_of_other_digits(digits) -> None:
    again = ContextedDigits(source="digits", train_scenes=5, val_scenes=5, test_scenes=5).load()
    assert all(torch.equal(again.train[i][0], digits.train[i][0]) for i in range(5))
    assert not torch.equal(ContextedDigits(source="digits", train_scenes=5, val_scenes=5, test_scenes=5, seed=1).load().train[0][0], again.train[0][0])
    assert digits.prepare(Image.new("L", (50, 40))).shape == digits.train[0][0].shape == (3, 24, 24)


@pytest.mark.parametrize("settings", [{"digit": 30}, {"noise": -1.0}, {"test_scenes": 0}])
def test_settings_that_make_no_scene_are_refused(settings) -> None:
    with pytest.raises(InputError):
        ContextedDigits(**settings)


# -- NICO ----------------------------------------------------------------------------------------------------------------------------------------


def put(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (shade, shade, shade)).save(path)
    return path


ORDER = {"cat": ["on snow", "at home", "walking"], "dog": ["on grass", "in water", "running"]}
COUNTS = {
    "cat": {"on snow": 30, "at home": 17, "walking": 12, "in a tree": 6},
    "dog": {"on grass": 20, "in_water": 11, "Running": 9, "in street": 4, "at home": 3},
}


@pytest.fixture
def nico(tmp_path) -> NICO:
    """As the set comes: a folder for each class, in it one for each context."""
    for label, contexts in COUNTS.items():
        for context, count in contexts.items():
            for n in range(count):
                put(tmp_path / "NICO" / label / context / f"{n:03}.jpg", n)
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    return NICO(root=tmp_path / "NICO", contexts=tmp_path / "order.json", img_size=16, held_out=2)


def kept(split) -> Counter:
    return Counter((Path(name).parts[0], Path(name).parts[1]) for name in split.names)


def test_training_is_long_tailed_over_contexts(nico) -> None:
    """Against exact arithmetic: the largest k with k^(c − 1) ≤ n^(c − 1) · 0.02^i, for the i-th of c contexts."""
    bundle = nico.load()
    want = {}
    for label, contexts in ORDER.items():
        for i, context in enumerate(contexts):
            folder = next(name for name in COUNTS[label] if name.lower().replace("_", " ") == context)
            n = COUNTS[label][folder] - 4
            count = max(k for k in range(n + 1) if Fraction(k) ** 2 <= Fraction(n) ** 2 * Fraction(1, 50) ** i)
            if count:
                want[label, folder] = count
    assert kept(bundle.train) == want
    assert bundle.classes == ["cat", "dog"]


def test_every_context_is_held_out_and_no_image_is_in_two_splits(nico) -> None:
    bundle = nico.load()
    splits = [set(split.names) for split in (bundle.train, bundle.val, bundle.test)]
    assert not splits[0] & splits[1] | splits[1] & splits[2] | splits[0] & splits[2]
    for split in (bundle.val, bundle.test):
        assert kept(split) == {(label, context): min(2, (n - 1) // 2) for label, contexts in COUNTS.items() for context, n in contexts.items()}
    assert kept(bundle.probes["majority"]) == {("cat", "on snow"): 2, ("dog", "on grass"): 2}
    assert kept(bundle.probes["unseen"]) == {("cat", "in a tree"): 2, ("dog", "in street"): 1, ("dog", "at home"): 1}
    assert sum(len(bundle.probes[name]) for name in ("majority", "minor", "unseen")) == len(bundle.test)
    assert any("not the authors'" in note for note in bundle.notes)
    assert bundle.train.names == nico.load().train.names
    assert bundle.train.augments
    assert not bundle.test.augments


def test_images_are_seen_as_the_authors_see_them(nico) -> None:
    """Squeezed to a square, whatever their shape."""
    image, label = nico.load().test[0]
    assert image.shape == (3, 16, 16)
    shade = int(Path(nico.load().test.names[0]).stem) / 255
    torch.testing.assert_close(
        image.mean((1, 2)), (torch.tensor([shade] * 3) - torch.tensor([0.524, 0.523, 0.449])) / torch.tensor([0.219, 0.218, 0.226]), atol=0.03, rtol=0
    )
    assert label == 0


def test_the_set_as_the_authors_share_it(tmp_path) -> None:
    labels, contexts = {"cat": 4, "dog": 0}, {"on_snow": 7, "at_home": 1, "running": 12}
    for part, count in (("train", 20), ("val", 2), ("test", 3)):
        for label in labels.values():
            for context in contexts.values():
                for n in range(count):
                    put(tmp_path / "multi_classification" / part / f"{label}_{context}_{n}.jpg")
    (tmp_path / "label_file").mkdir()
    (tmp_path / "label_file" / "Animal_name2label.json").write_text(json.dumps(labels))
    with pytest.raises(InputError, match=r"not .*Context_name2label\.json"):
        NICO(root=tmp_path).load()
    (tmp_path / "label_file" / "Context_name2label.json").write_text(json.dumps(contexts))
    (tmp_path / "order.json").write_text(json.dumps({"cat": ["on_snow", "at_home"], "dog": ["running", "on_snow"]}))
    bundle = NICO(root=tmp_path, contexts=tmp_path / "order.json", img_size=16).load()
    assert Counter(Path(name).stem.rpartition("_")[0] for name in bundle.train.names) == {"4_7": 20, "0_12": 20}, "of the second of two contexts ⌊0.02 · 20⌋"
    assert (len(bundle.val), len(bundle.test), bundle.notes) == (12, 18, [])
    assert {name: len(split) for name, split in bundle.probes.items()} == {"majority": 6, "minor": 6, "unseen": 6}
    assert {label for _, label in (bundle.test[i] for i in range(18))} == {0, 1}


def test_what_is_no_nico_is_named(tmp_path, nico) -> None:
    with pytest.raises(InputError, match=r"is no folder; expected NICO there"):
        NICO(root=tmp_path / "absent").load()
    with pytest.raises(InputError, match=r"no folder for bear, bird, cow.*it has cat, dog"):
        NICO(root=nico.root).load()
    for content, message in (("{", "is no JSON"), ('{"cat": "on snow", "dog": []}', "an object of classes with lists of contexts")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=message):
            NICO(root=nico.root, contexts=tmp_path / "bad.json").load()
    with pytest.raises(InputError, match=r"cannot read the contexts from .*none\.json"):
        NICO(root=nico.root, contexts=tmp_path / "none.json").load()
    (tmp_path / "bad.json").write_text(json.dumps(ORDER | {"cat": ["on snow", "on the moon"]}))
    with pytest.raises(InputError, match="no training images of cat on_the_moon; it has"):
        NICO(root=nico.root, contexts=tmp_path / "bad.json").load()


def test_broken_images_are_left_out_and_named(nico) -> None:
    for path in (nico.root / "cat" / "on snow").iterdir():
        path.write_bytes(b"no image")
    bundle = nico.load()
    assert not any("on snow" in name for name in bundle.train.names)
    assert any("unreadable images were left out" in note and "on snow" in note for note in bundle.notes)


def test_the_published_contexts() -> None:
    """Seven of each of ten animals; images of the protocol are counted with them."""
    assert len(NICO_CONTEXTS) == 10
    assert all(len(set(contexts)) == 7 for contexts in NICO_CONTEXTS.values())


# -- ImageNet-9 ----------------------------------------------------------------------------------------------------------------------------------


def test_nine_kinds_of_forty_two_classes() -> None:
    """With 1,300 training and 50 validation images of each: the published 54,600 and 2,100."""
    every = [name for names in NINE.values() for name in names]
    assert (len(NINE), len(every), len(set(every))) == (9, 42, 42)
    assert (1300 * len(every), 50 * len(every)) == (54_600, 2_100)


@pytest.mark.parametrize("own", [False, True])
def test_folders_of_kinds_or_of_imagenet(tmp_path, own) -> None:
    for part in ("train", "val"):
        for kind, names in NINE.items():
            for name in names if own else (kind,):
                put(tmp_path / part / name / "a.JPEG", 10 * list(NINE).index(kind))
        put(tmp_path / part / "n04557648" / "bottle.JPEG")
    put(tmp_path / "a" / "n02174001" / "beetle.jpg", 80)
    put(tmp_path / "a" / "n04557648" / "bottle.jpg")
    bundle = ImageNet9(root=tmp_path, imagenet_a=tmp_path / "a", img_size=14).load()
    assert bundle.classes == list(NINE)
    assert len(bundle.train) == len(bundle.val) == (42 if own else 9)
    assert bundle.test is bundle.val
    assert [bundle.probes["imagenet_a"][n][1] for n in range(len(bundle.probes["imagenet_a"]))] == [8]
    for n in range(len(bundle.val)):
        image, label = bundle.val[n]
        assert image.shape == (3, 14, 14)
        assert (image[0].mean().item() * 0.229 + 0.485) * 255 == pytest.approx(10 * label, abs=1.5)
    assert "train/" + ("n01641577" if own else "bird") + "/a.JPEG" == bundle.train.names[0]


def test_a_kind_without_images_is_named(tmp_path) -> None:
    for part in ("train", "val"):
        for kind in list(NINE)[:7]:
            put(tmp_path / part / kind / "a.jpg")
    with pytest.raises(InputError, match=r"train has no images of crab, insect"):
        ImageNet9(root=tmp_path).load()
    with pytest.raises(InputError, match=r"train is no folder"):
        ImageNet9(root=tmp_path / "none").load()
