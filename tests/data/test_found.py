"""What lies in folders of people: splits in any case, links, hidden files, other endings, names that hardly differ."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal import InputError
from foveal.lab.data import NICO, ImageFolder, ImageNet, ImageNet9, MaskFolder, VideoFolder
from foveal.lab.data._splits import split_of
from foveal.lab.data.contexts.imagenet9 import NINE


def put(path: Path, shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path, "PNG")
    return path


def junk(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"junk")
    return path


def split(root: Path, *names: str, count: int = 4) -> Path:
    for name in names:
        for label in ("cat", "dog"):
            for n in range(count):
                put(root / name / label / f"{n}.png")
    return root


def load(root: Path, **options):
    return ImageFolder(root=root, img_size=8, **options).load()


def paths(part) -> list[Path]:
    return [path for path, _ in part.files]


NAMES = {
    "train": "train Train TRAIN training Training train_set trainset TrainSet train-data train2017 train_images images_train seg_train",
    "val": "val Val valid VALID validation Validation validation_set dev Dev eval evaluation val2017 val_images",
    "test": "test Test TEST testing Testing test_set testset tests test-images",
}
CLASSES = ("cat training shoes", "trainer", "station", "vale", "valley", "evaluator", "devon", "protest", "testbed", "contest", "train station", "trains")
CLASSES += ("set", "data", "2017", "validity", "latest", "image")


@pytest.mark.case("F3")
def test_names_of_splits_in_any_case() -> None:
    for want, names in NAMES.items():
        assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), want)
    assert {name: split_of(name) for name in CLASSES} == dict.fromkeys(CLASSES)


@pytest.mark.case("F3")
@pytest.mark.parametrize("names", ["Train Val Test", "TRAINING valid testing", "train_set dev test_set", "train Validation TEST"])
def test_splits_are_no_classes(tmp_path, names) -> None:
    bundle = load(split(tmp_path, *names.split()))
    assert bundle.classes == ["cat", "dog"]
    for part, name in zip((bundle.train, bundle.val, bundle.test), names.split(), strict=True):
        assert {path.parent.parent for path in paths(part)} == {tmp_path / name}
        assert len(part) == 8


@pytest.mark.case("F3")
@pytest.mark.parametrize("names", [("Train", "Test"), ("Training", "Testing"), ("train", "test")])
@pytest.mark.parametrize("check", [True, False])
def test_without_validation_some_training_images_validate_and_none_of_the_test(tmp_path, names, check) -> None:
    bundle = load(split(tmp_path, *names, count=5), check=check)
    assert bundle.classes == ["cat", "dog"]
    assert sorted(paths(bundle.train) + paths(bundle.val)) == sorted((tmp_path / names[0]).rglob("*.png"))
    assert Counter(path.parent.name for path in paths(bundle.val)) == {"cat": 1, "dog": 1}
    assert sorted(paths(bundle.test)) == sorted((tmp_path / names[1]).rglob("*.png"))
    assert any("no validation split: 2 images" in note and names[1] in note for note in bundle.notes)


def classes_beside(root: Path) -> None:
    for name in ("cat", "dog", "test"):
        put(root / name / "0.png")


def trains_and_cars(root: Path) -> None:
    for name in ("car", "bus", "train"):
        put(root / name / "0.png")


def twice(root: Path) -> None:
    split(root, "train", "Training", "val")


def two_validations(root: Path) -> None:
    split(root, "train", "val", "dev")


def splits_below(root: Path) -> None:
    split(root, "train/Train", "train/Test")
    split(root, "val/Train", "val/Test")
    for name in ("train", "val"):
        for label in ("Train", "Test"):
            put(root / name / label / "0.png")


def splits_inside_of_classes(root: Path) -> None:
    for label in ("cat", "dog"):
        for name in ("train", "test"):
            put(root / label / name / "0.png")


def cases(root: Path) -> None:
    for label in ("cat", "Cat", "dog"):
        put(root / label / "0.png")


def accents(root: Path) -> None:
    for label in ("caf\u00e9", "cafe\u0301", "dog"):
        put(root / label / "0.png")


def validation_is_training(root: Path) -> None:
    split(root, "train")
    (root / "val").symlink_to(root / "train")


def the_test_is_a_part_of_training(root: Path) -> None:
    split(root, "train", "val")
    for label in ("cat", "dog"):
        (root / "test" / label).mkdir(parents=True)
        (root / "test" / label / "same.png").symlink_to(root / "train" / label / "1.png")


def one_class_in_another(root: Path) -> None:
    split(root, "train", "val")
    (root / "train" / "cat" / "more").symlink_to(root / "train" / "dog")


REFUSED = {
    classes_beside: r"has test/ but no train/, and beside it cat; dog: nobody can tell which are splits",
    trains_and_cars: r"has train/ but no val/, and beside it bus; car: .*rename train if it is no split",
    twice: r"Training/ and train/, which both name the train split",
    two_validations: r"dev/ and val/, which both name the val split",
    splits_below: r"train has Test; Train in the place of classes, which are names of splits",
    splits_inside_of_classes: r"cat holds folders of splits \(test, train\); expected splits above classes",
    cases: r"classes 'Cat' and 'cat', which differ in case",
    accents: r"which differ in case or in how accents are written",
    validation_is_training: r"is in val and, by a link, in train",
    the_test_is_a_part_of_training: r"same\.png is in test and, by a link, in train",
    one_class_in_another: r"is in (cat|dog) and, by a link, in (cat|dog)",
}


@pytest.mark.case("F3", "F22")
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_may_be_either_is_refused(tmp_path, make) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=REFUSED[make]):
        load(tmp_path)


@pytest.mark.case("F3")
def test_a_class_may_be_named_like_a_split_below_one(tmp_path) -> None:
    """VOC has the class train."""
    for name in ("train", "val"):
        for label in ("car", "train"):
            put(tmp_path / name / label / "0.png")
    assert load(tmp_path).classes == ["car", "train"]


@pytest.mark.case("F3")
def test_kinds_made_of_folders_and_folders_beside_splits_are_said(tmp_path) -> None:
    for name in ("train", "val"):
        for label in ("animals/cat", "animals/dog", "vehicles/car", "vehicles/bus"):
            put(tmp_path / name / label / "0.png")
    split(tmp_path, "unsorted")
    notes = load(tmp_path).notes
    assert any("the class 'animals'" in note and "cat; dog" in note for note in notes)
    assert any("beside its splits, which are not read: unsorted" in note for note in notes)


@pytest.mark.case("F3")
@pytest.mark.parametrize("names", [("Train", "Val"), ("training", "validation")])
def test_other_sets_know_the_same_names(tmp_path, names) -> None:
    split(tmp_path / "net", *names, "Test")
    bundle = ImageNet(root=tmp_path / "net", img_size=8).load()
    assert (bundle.classes, len(bundle.train), len(bundle.val)) == (["cat", "dog"], 8, 8)
    assert any("Test is not read" in note for note in bundle.notes)
    for name in names:
        for label in ("cat", "dog"):
            for n in range(3):
                put(tmp_path / "video" / name / label / "one" / f"{n}.png")
    bundle = VideoFolder(root=tmp_path / "video", img_size=8, num_frames=2, stride=1).load()
    assert (bundle.classes, len(bundle.train), len(bundle.val)) == (["cat", "dog"], 2, 2)
    (tmp_path / "video" / f"{names[0]}.csv").write_text(f"{names[0]}/cat/one 0\n{names[0]}/dog/one 1\n")
    (tmp_path / "video" / f"{names[1]}.csv").write_text(f"{names[1]}/cat/one 0\n")
    assert len(VideoFolder(root=tmp_path / "video", img_size=8, num_frames=2, stride=1).load().train) == 2


def masked(root: Path, count: int = 5) -> Path:
    for n in range(count):
        put(root / "images" / f"{n}.png")
        Image.fromarray((np.arange(64) % 2).reshape(8, 8).astype(np.uint8)).save(put(root / "masks" / f"{n}.png"))
    return root


@pytest.mark.case("F3")
def test_so_do_sets_of_masks_also_where_splits_lie_below_images(tmp_path) -> None:
    for name in ("Train", "Test"):
        masked(tmp_path / "above" / name)
        masked(tmp_path / name)
        for kind in ("images", "masks"):
            (tmp_path / "below" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / name / kind).rename(tmp_path / "below" / kind / name)
    for root, depth in ((tmp_path / "above", 1), (tmp_path / "below", 0)):
        bundle = MaskFolder(root=root, img_size=8, classes=("a", "b")).load()
        assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (4, 1, 5)
        for part, name in ((bundle.train, "Train"), (bundle.val, "Train"), (bundle.test, "Test")):
            assert {path.parents[depth].name for path, _ in part.pairs} == {name}
            assert all(mask.parents[depth].name == name for _, mask in part.pairs)


# -- what is passed over --------------------------------------------------------------------------------------------------------------------------


HIDDEN = (".DS_Store", "._0.png", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/._1.png", "Thumbs.db", "@eaDir/0.png/SYNOPHOTO.png", "desktop.ini")


@pytest.mark.case("F21")
def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path) -> None:
    split(tmp_path, "train", "val")
    for name in HIDDEN:
        junk(tmp_path / "train" / "cat" / name)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        junk(tmp_path / "train" / name / "0.png")
        junk(tmp_path / name / "0.png")
    bundle = load(tmp_path)
    assert (bundle.classes, len(bundle.train)) == (["cat", "dog"], 8)
    assert not any("unreadable" in note.replace(str(tmp_path), "") for note in bundle.notes)
    (note,) = (note for note in bundle.notes if "passed over" in note)
    assert f"{len(HIDDEN) + 6} entries were passed over: {len(HIDDEN) + 6} hidden" in note
    bundle = ImageNet(root=tmp_path, img_size=8).load()
    assert len(bundle.train) == 8
    assert any(f"{len(HIDDEN) + 3} hidden" in note for note in bundle.notes)


@pytest.mark.case("F21")
def test_other_endings_are_counted_and_refused_where_they_are_most(tmp_path) -> None:
    split(tmp_path, "train", "val")
    for n in range(3):
        junk(tmp_path / "train" / "cat" / f"IMG_{n}.HEIC")
    for n in range(40):
        junk(tmp_path / "train" / "cat" / f"{n}.txt")
    for kind in (ImageFolder, ImageNet):
        (note,) = (note for note in kind(root=tmp_path, img_size=8).load().notes if "passed over" in note)
        assert "43 entries" in note
        assert "3 ending in .heic (convert HEIC to JPEG or PNG)" in note
        assert "40 ending in .txt" in note
    for n in range(3, 10):
        junk(tmp_path / "train" / "cat" / f"IMG_{n}.HEIC")
    for kind in (ImageFolder, ImageNet):
        with pytest.raises(InputError, match=r"cat.*most of it would be left out, 10 of 14\. .*10 ending in \.heic \(convert"):
            kind(root=tmp_path, img_size=8).load()


@pytest.mark.case("F21")
@pytest.mark.parametrize("ending", [".heif", ".jxl", ".cr2", "", ".jpg_large"])
def test_a_class_of_such_files_says_what_lies_there(tmp_path, ending) -> None:
    split(tmp_path, "train", "val")
    junk(tmp_path / "train" / "eel" / f"0{ending}")
    with pytest.raises(InputError, match=rf"no images for eel; .*passed over: 1 {f'ending in {ending}' if ending else 'without an ending'}"):
        load(tmp_path)


@pytest.mark.case("F21")
def test_images_outside_of_class_folders_are_counted(tmp_path) -> None:
    split(tmp_path, "train", "val")
    put(tmp_path / "train" / "loose.png")
    assert any("1 outside of the class folders, such as train/loose.png" in note for note in load(tmp_path).notes)
    for n in range(12):
        put(tmp_path / "train" / f"{n}.png")
    for kind in (ImageFolder, ImageNet):
        with pytest.raises(InputError, match=r"train: most of it would be left out, 13 of 21"):
            kind(root=tmp_path, img_size=8).load()


@pytest.mark.case("F21")
def test_masks_and_contexts_count_as_well(tmp_path) -> None:
    root = masked(tmp_path / "set")
    junk(root / "images" / "a.heic")
    put(root / "masks" / "alone.png")
    junk(root / "masks" / "._0.png")
    (note,) = (note for note in MaskFolder(root=root, img_size=8, classes=("a", "b")).load().notes if "passed over" in note)
    assert all(said in note for said in ("3 entries", "1 ending in .heic", "1 masks without an image, such as masks/alone.png", "1 hidden"))
    for part in ("train", "val"):
        for kind in NINE:
            put(tmp_path / "nine" / part / kind / "0.png")
    junk(tmp_path / "nine" / "train" / "dog" / "a.heic")
    junk(tmp_path / "nine" / "train" / "dog" / ".x.png")
    bundle = ImageNet9(root=tmp_path / "nine", img_size=14).load()
    assert len(bundle.train) == 9
    assert any("1 ending in .heic" in note and "1 hidden" in note for note in bundle.notes)
    for n in range(3):
        for label in ("cat", "dog"):
            for context in ("snow", "home"):
                put(tmp_path / "nico" / label / context / f"{n}.png")
    junk(tmp_path / "nico" / "cat" / "snow" / "a.heic")
    junk(tmp_path / "nico" / "cat" / ".snow" / "a.png")
    (tmp_path / "order.json").write_text('{"cat": ["snow", "home"], "dog": ["home", "snow"]}')
    notes = NICO(root=tmp_path / "nico", contexts=tmp_path / "order.json", img_size=8, held_out=1).load().notes
    assert any("1 ending in .heic" in note and "1 hidden" in note for note in notes)


@pytest.mark.case("F21")
@pytest.mark.parametrize("check", [True, False])
def test_pipes_are_not_waited_for(tmp_path, check) -> None:
    split(tmp_path, "train", "val")
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    bundle = load(tmp_path, check=check)
    assert len(bundle.train) == 8
    assert any("1 no regular file, such as cat/pipe.png" in note for note in bundle.notes)
