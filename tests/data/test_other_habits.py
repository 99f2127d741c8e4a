"""Siblings of the cases of files: other names of splits, other links, other lists, other damage, in every reader of the kind."""

import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal import InputError
from foveal.lab.data import CocoFolder, ImageFolder, ImageNet, MaskFolder, PascalVOC, VideoFolder
from foveal.lab.data._splits import like_splits, split_of


def put(path: Path, shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(path, "PNG")
    return path


def tree(root: Path, *names: str, classes: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    for name in names:
        for label in classes:
            for n in range(count):
                put(root / name / label / f"{n}.png", 20 * n)
    return root


def folder(root: Path, **options):
    return ImageFolder(root=root, img_size=8, **options).load()


def net(root: Path):
    return ImageNet(root=root, img_size=8, auto_augment=None).load()


@pytest.mark.case("F3")
def test_short_names_of_splits_and_lists() -> None:
    want = {"trn": "train", "TRN": "train", "tst": "test", "trainval": "train", "trainlist01": "train", "val_list": "val", "testlist": "test"}
    assert {name: split_of(name) for name in want} == want


@pytest.mark.case("F3")
def test_names_that_look_like_splits() -> None:
    for names in (("X_train", "X_test"), ("trainA", "testA"), ("cats-train", "cats-val"), ("catsTrain", "catsTest"), ("my set (train)", "my set (dev)")):
        assert like_splits(names), names
    for names in (("cat", "dog"), ("steam train", "freight train"), ("train", "car"), ("trainer", "tester"), ("crash test", "drive test"), ()):
        assert not like_splits(names), names


@pytest.mark.case("F3")
@pytest.mark.parametrize("names", [("X_train", "X_test"), ("trainA", "trainB", "testA", "testB"), ("my_set_train", "my_set_val")])
@pytest.mark.parametrize("flat", [True, False])
def test_splits_under_longer_names_are_no_classes(tmp_path, names, flat) -> None:
    if flat:
        for name in names:
            put(tmp_path / name / "0.png")
    else:
        tree(tmp_path, *names)
    with pytest.raises(InputError, match=r"in the place of classes, which are names of splits; .* named train, val and test"):
        folder(tmp_path)


@pytest.mark.case("F3")
@pytest.mark.parametrize("names", [("entrenamiento", "prueba"), ("fold1", "fold2", "fold3"), ("source", "target")])
def test_folders_that_hold_the_same_classes_may_be_splits(tmp_path, names) -> None:
    tree(tmp_path, *names)
    with pytest.raises(InputError, match=r"hold the same folders each, cat; dog: nobody can tell whether they are splits or classes"):
        folder(tmp_path)
    # classes that are sorted further have other folders each, or lie below a split
    tree(tmp_path / "more", "cat/day", "cat/night", "dog/day", classes=("a", "b"))
    assert folder(tmp_path / "more").classes == ["cat", "dog"]
    tree(tmp_path / "split", "train/day", "train/night", "val/day", "val/night")
    assert folder(tmp_path / "split").classes == ["day", "night"]


@pytest.mark.case("F3")
def test_a_folder_around_the_splits_is_named(tmp_path) -> None:
    tree(tmp_path, "unpacked/train", "unpacked/val")
    with pytest.raises(InputError, match=r"holds unpacked/ alone, and that the splits train, val; give .*unpacked in its place"):
        folder(tmp_path)


@pytest.mark.case("F3")
@pytest.mark.parametrize("names", [("X_train", "X_test"), ("trainA", "testA")])
def test_so_it_is_for_masks(tmp_path, names) -> None:
    for name in names:
        for n in range(3):
            put(tmp_path / "images" / name / f"{n}.png")
            put(tmp_path / "masks" / name / f"{n}.png")
    with pytest.raises(InputError, match="which look like splits; name them train, val and test"):
        MaskFolder(root=tmp_path, classes=("a", "b"), img_size=8).load()


@pytest.mark.case("F18", "F22")
def test_a_file_that_links_to_itself_is_one_broken_file(tmp_path) -> None:
    tree(tmp_path, "train", "val")
    (tmp_path / "train" / "cat" / "self.png").symlink_to("self.png")
    bundle = folder(tmp_path)
    assert len(bundle.train) == 8
    assert any("1 unreadable" in note and "self.png" in note for note in bundle.notes)


@pytest.mark.case("F21")
def test_a_class_most_of_which_is_broken_is_refused(tmp_path) -> None:
    tree(tmp_path, "train", "val")
    for n in range(3):
        (tmp_path / "train" / "cat" / f"{n}.png").write_bytes(b"ftypheic")
    with pytest.raises(InputError, match=r"class 'cat', .*: most of it would be left out, 3 of 4 cannot be read: .*0\.png"):
        folder(tmp_path)
    put(tmp_path / "train" / "cat" / "0.png")
    assert len(folder(tmp_path).train) == 6


@pytest.mark.case("F21")
def test_so_are_masks_and_videos_in_folders(tmp_path) -> None:
    for n in range(3):
        for name in ("train", "val"):
            put(tmp_path / "set" / name / "images" / f"{n}.png")
            (tmp_path / "set" / name / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "set" / name / "masks" / f"{n}.png")
            for label in ("cat", "dog"):
                put(tmp_path / "video" / name / label / str(n) / "0.png")
    for n in range(2):
        (tmp_path / "set" / "val" / "masks" / f"{n}.png").write_bytes(b"")
        for label in ("cat", "dog"):
            (tmp_path / "video" / "val" / label / str(n) / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match="val: most of it would be left out, 2 of 3"):
        MaskFolder(root=tmp_path / "set", classes=("a", "b"), img_size=8).load()
    with pytest.raises(InputError, match="val: most of it would be left out, 4 of 6"):
        VideoFolder(root=tmp_path / "video", img_size=8, num_frames=1, stride=1).load()


@pytest.mark.case("F22")
def test_one_file_in_both_splits_of_imagenet_is_refused(tmp_path) -> None:
    tree(tmp_path, "train", "val")
    assert len(net(tmp_path).val) == 8, "as many bytes and names, and other files"
    for link in (os.symlink, os.link):
        (tmp_path / "val" / "dog" / "0.png").unlink()
        link(tmp_path / "train" / "cat" / "1.png", tmp_path / "val" / "dog" / "0.png")
        with pytest.raises(InputError, match=r"train/cat/1\.png and .*val/dog/0\.png are one file, by a link"):
            net(tmp_path)


@pytest.mark.case("F18", "F22")
def test_one_file_twice_in_a_split_of_imagenet(tmp_path) -> None:
    tree(tmp_path, "train", "val")
    (tmp_path / "train" / "cat" / "again.png").symlink_to(tmp_path / "train" / "cat" / "1.png")
    bundle = net(tmp_path)
    assert len(bundle.train) == 9
    assert any("1 files of train are links to others of the same class" in note for note in bundle.notes)
    (tmp_path / "train" / "dog" / "again.png").symlink_to(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(InputError, match="are one file, by a link; a file must be in one split and in one class only"):
        net(tmp_path)


@pytest.mark.case("F18", "F21")
def test_what_is_no_file_is_no_image_of_imagenet(tmp_path) -> None:
    tree(tmp_path, "train", "val")
    cat = tmp_path / "train" / "cat"
    (cat / "self.png").symlink_to("self.png")
    (cat / "gone.png").symlink_to("nothing.png")
    (cat / "folder.png").mkdir()
    os.mkfifo(cat / "pipe.png")
    (tmp_path / "unsorted").mkdir()
    bundle = net(tmp_path)
    assert len(bundle.train) == 8
    assert any("4 no regular file" in note for note in bundle.notes)
    assert any("not read: unsorted" in note for note in bundle.notes)


def shard(path: Path, labels: tuple[int, ...] = (0, 1, 0, 1), mode: str = "w") -> Path:
    content = put(path.with_name("picture.png")).read_bytes()
    path.with_name("picture.png").unlink()
    with tarfile.open(path, mode) as tar:
        for n, label in enumerate(labels):
            for ending, data in (("png", content), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{n:03}.{ending}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    root.mkdir()
    shard(root / "train-0.tar")
    shard(root / "val-0.tar")
    return root


@pytest.mark.case("F21", "F25")
def test_archives_that_are_not_read_are_said(shards) -> None:
    shard(shards / "train-1.tar.gz", mode="w:gz")
    shard(shards / "test-0.tar")
    shard(shards / "part-0.tar")
    notes = net(shards).notes
    assert any("1 compressed archives" in note and "train-1.tar.gz" in note for note in notes)
    assert any("2 archives named for neither train nor val" in note for note in notes)
    shard(shards / "train-2.tgz", mode="w:gz")
    shard(shards / "train-3.tgz", mode="w:gz")
    with pytest.raises(InputError, match=r"most of it would be left out, 3 of 5.*decompress them"):
        net(shards)
    (shards / "train-0.tar").unlink()
    with pytest.raises(InputError, match=r"no shards of train; .*3 compressed archives"):
        net(shards)


@pytest.mark.case("F22", "F25")
def test_links_to_shards(shards) -> None:
    (shards / "val-1.tar").symlink_to("train-0.tar")
    with pytest.raises(InputError, match=r"val-1\.tar of val and .*train-0\.tar of train are one file by a link"):
        net(shards)
    (shards / "val-1.tar").unlink()
    (shards / "train-1.tar").symlink_to("train-0.tar")
    with pytest.raises(InputError, match=r"train-1\.tar of train and .*train-0\.tar of train are one file"):
        net(shards)
    (shards / "train-1.tar").unlink()
    (shards / "train-1.tar").symlink_to("nothing.tar")
    with pytest.raises(InputError, match=r"train-1\.tar is a link to what is not there"):
        net(shards)


@pytest.mark.case("F2", "F25")
def test_classes_that_validation_lacks_and_names_with_odd_characters(shards) -> None:
    shard(shards / "val-0.tar", (0, 0))
    (shards / "classnames.txt").write_bytes("a\x0cb\r\nc\u2028d\r\n".encode())
    bundle = net(shards)
    assert bundle.classes == ["a\x0cb", "c\u2028d"]
    assert any("1 of 2 classes have no image in val: 1" in note for note in bundle.notes)


def coco(root: Path, edit=None) -> Path:
    for name in ("train2017", "val2017"):
        for n in range(1, 5):
            put(root / name / f"{n}.png")
        mask = [[2, 2, 10, 2, 10, 10, 2, 10]]
        values = {
            "images": [{"id": n, "file_name": f"{n}.png", "height": 16, "width": 16} for n in range(1, 5)],
            "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 8, 8], "area": 64, "segmentation": mask} for n in range(1, 5)],
            "categories": [{"id": 1, "name": "a"}],
        }
        if edit is not None:
            edit(values, name, root)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(values))
    return root


def no_truth(values, name, root) -> None:
    if name == "val2017":
        values["annotations"] = []


def only_crowds(values, name, root) -> None:
    if name == "val2017":
        for one in values["annotations"]:
            one["iscrowd"] = 1


def endless(values, name, root) -> None:
    values["annotations"][1]["bbox"] = [2, 2, 1e30, 4]


def far_left(values, name, root) -> None:
    values["annotations"][1]["bbox"] = [-1e6, 2, 1e6 + 4, 4]


def whole_floats(values, name, root) -> None:
    values["annotations"][1]["segmentation"] = {"size": [16.0, 16.0], "counts": [100, 56, 100]}


def other_spelling(values, name, root) -> None:
    values["images"][1]["file_name"] = f"../{name}/1.png"


def linked(values, name, root) -> None:
    (root / name / "2.png").unlink()
    (root / name / "2.png").symlink_to("1.png")


@pytest.mark.case("F12", "F13", "F43")
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (no_truth, "instances_val2017.json has no object in the images of val"),
        (only_crowds, "instances_val2017.json has no object in the images of val"),
        (endless, r"annotation 2 has bbox \[2, 2, 1e\+30, 4\]; .*far beyond its image of 16×16"),
        (far_left, r"annotation 2 has bbox .*far beyond its image of 16×16"),
        (whole_floats, r"the mask of annotation 2 cannot be read: its size is \[16\.0, 16\.0\]; expected that of its image, \[16, 16\]"),
        (other_spelling, r"lists 1\.png twice, as image 1 and as image 2"),
        (linked, r"lists 2\.png twice, as image 1 and as image 2"),
    ],
)
def test_coco_is_looked_at_as_a_whole(tmp_path, edit, says) -> None:
    assert len(CocoFolder(root=coco(tmp_path / "good")).load().train) == 4
    with pytest.raises(InputError, match=says):
        CocoFolder(root=coco(tmp_path / "bad", edit)).load()


@pytest.mark.case("F43")
@pytest.mark.parametrize("how", ["by a path", "by a link"])
def test_images_of_coco_that_are_in_both_parts(tmp_path, how) -> None:
    def leak(values, name, root) -> None:
        if name == "val2017" and how == "by a path":
            values["images"][0]["file_name"] = "../train2017/1.png"
        elif name == "val2017":
            (root / name / "1.png").unlink()
            (root / name / "1.png").symlink_to(root / "train2017" / "1.png")

    assert any("1 images are in train and in val" in note for note in CocoFolder(root=coco(tmp_path, leak)).load().notes)


def videos(root: Path, train: str, val: str = "b/0 1\n", classes: str | None = None):
    for name in ("a/0", "a/1", "b/0", "x, y"):
        put(root / name / "0.png")
    (root / "train.csv").write_text(train)
    (root / "val.csv").write_text(val)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return VideoFolder(root=root, img_size=8, num_frames=1, stride=1).load()


@pytest.mark.case("F18", "F25")
def test_lists_of_videos_as_people_write_them(tmp_path) -> None:
    bundle = videos(tmp_path, '"x, y",0\n"a/1",1\n')
    assert [(path.relative_to(tmp_path).as_posix(), label) for path, label in bundle.train.videos] == [("x, y", 0), ("a/1", 1)]
    with pytest.raises(InputError, match=r"classes\.txt, line 2: expected the name of class 1, got an empty line"):
        videos(tmp_path, "a/0 0\na/1 1\n", classes="cat\n\ndog\n")
    assert videos(tmp_path, "a/0 0\na/1 1\n", classes="cat\ndog\n\n").classes == ["cat", "dog"]
    with pytest.raises(InputError, match="with the classes 0 and 1; expected one"):
        videos(tmp_path, "a/0 0\na/../a/0 1\n", classes="cat\ndog\n")
    with pytest.raises(InputError, match=r"is in train\.csv and in val\.csv"):
        videos(tmp_path, "a/0 0\n./b/0 1\n")
    (tmp_path / "link").symlink_to(tmp_path / "b" / "0")
    with pytest.raises(InputError, match=r"is in train\.csv and in val\.csv"):
        videos(tmp_path, "a/0 0\nlink 1\n")


@pytest.mark.case("F2")
def test_a_benchmark_trained_on_its_validation_says_so(tmp_path) -> None:
    for name in ("1", "2", "3"):
        put(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "SegmentationClass" / f"{name}.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, members in (("train", "1\n2\n"), ("val", "3\n"), ("trainval", "1\n2\n3\n")):
        (lists / f"{name}.txt").write_text(members)
    said = "1 images are in train and in val"
    assert any(said in note for note in PascalVOC(root=tmp_path, train_list="trainval", img_size=8).load().notes)
    assert not any(said in note for note in PascalVOC(root=tmp_path, train_list="train", img_size=8).load().notes)
