"""Links in folders of people, and frames of videos, each of which is looked at."""

import os
from collections import Counter

import pytest
from PIL import Image

from foveal import InputError
from foveal.lab.data import VideoFolder

from .test_found import junk, load, paths, put, split


@pytest.mark.case("F22")
def test_linked_folders_are_followed_once_each(tmp_path) -> None:
    root = split(tmp_path / "set", "train", "val")
    for n in range(5):
        put(tmp_path / "elsewhere" / "deep" / f"more{n}.png")
    cat = root / "train" / "cat"
    (cat / "more").symlink_to(tmp_path / "elsewhere")
    (cat / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (cat / "itself").symlink_to(cat)
    (cat / "up").symlink_to(root)
    (cat / "round").symlink_to(cat / "round")
    (cat / "copy.png").symlink_to(cat / "0.png")
    bundle = load(root)
    names = Counter(path.name for path in paths(bundle.train) if "cat" in path.parts)
    assert names == Counter([*(f"{n}.png" for n in range(4)), *(f"more{n}.png" for n in range(5))])
    (note,) = (note for note in bundle.notes if "passed over" in note)
    assert "3 links to a folder that is read already" in note
    assert "1 links to what is taken already" in note


@pytest.mark.case("F22", "F18")
def test_a_linked_class_and_linked_files_are_read(tmp_path) -> None:
    split(tmp_path / "real", "train", "val")
    (tmp_path / "set" / "val").mkdir(parents=True)
    (tmp_path / "set" / "train").symlink_to(tmp_path / "real" / "train")
    for label in ("cat", "dog"):
        (tmp_path / "set" / "val" / label).symlink_to(tmp_path / "real" / "val" / label)
    bundle = load(tmp_path / "set")
    assert (len(bundle.train), len(bundle.val)) == (8, 8)


@pytest.mark.case("F18")
@pytest.mark.parametrize("videos", ["folders", "files"])
def test_videos_are_listed_once_whatever_links_there_are(tmp_path, videos) -> None:
    for name in ("train", "val"):
        for label in ("cat", "dog"):
            for n in range(3):
                place = tmp_path / name / label / f"{n}"
                if videos == "folders":
                    put(place / "0.png")
                else:
                    junk(place.with_suffix(".mp4"))
    cat = tmp_path / "train" / "cat"
    (cat / "itself").symlink_to(cat)
    (cat / "split").symlink_to(tmp_path / "train")
    (tmp_path / "more").mkdir()
    if videos == "folders":
        put(tmp_path / "more" / "new" / "0.png")
        (cat / "linked").symlink_to(tmp_path / "more" / "new")
        (cat / "linked again").symlink_to(tmp_path / "more" / "new")
    else:
        junk(tmp_path / "more" / "new.mp4")
        (cat / "linked").symlink_to(tmp_path / "more")
        (cat / "linked again.mp4").symlink_to(tmp_path / "more" / "new.mp4")
    bundle = VideoFolder(root=tmp_path, img_size=8, num_frames=1, stride=1, check=False).load()
    own = Counter(os.path.realpath(path) for path, label in bundle.train.videos if label == 0)
    assert len(own) == 4
    assert set(own.values()) == {1}
    assert len(bundle.train) == 7
    assert any("links to" in note for note in bundle.notes)


@pytest.mark.case("F18")
def test_a_video_in_two_splits_is_refused(tmp_path) -> None:
    for name in ("train", "val"):
        for label in ("cat", "dog"):
            put(tmp_path / name / label / "0" / "0.png")
    (tmp_path / "val" / "cat" / "1").symlink_to(tmp_path / "train" / "cat" / "0")
    settings = VideoFolder(root=tmp_path, img_size=8, num_frames=1, stride=1)
    with pytest.raises(InputError, match=r"is in val and, by a link, in train"):
        settings.load()
    (tmp_path / "train.csv").write_text("train/cat/0 0\ntrain/dog/0 1\n")
    (tmp_path / "val.csv").write_text("train/cat/0 0\n")
    with pytest.raises(InputError, match=r"is in train\.csv and in val\.csv"):
        settings.load()
    (tmp_path / "val.csv").write_text("val/cat/0 0\nval/cat/0 1\n")
    with pytest.raises(InputError, match=r"with the classes 0 and 1"):
        settings.load()


@pytest.mark.case("F20")
@pytest.mark.parametrize("frame", [0, 2, 5])
def test_every_frame_of_a_folder_is_checked(tmp_path, frame) -> None:
    for name in ("train", "val"):
        for label in ("cat", "dog"):
            for video in ("one", "two"):
                for n in range(6):
                    put(tmp_path / name / label / video / f"{n}.png")
    broken = tmp_path / "train" / "cat" / "one" / f"{frame}.png"
    broken.write_bytes(b"no picture")
    settings = VideoFolder(root=tmp_path, img_size=8, num_frames=2, stride=1)
    bundle = settings.load()
    assert len(bundle.train) == 3
    assert any("1 of 4 videos of train were left out" in note and f"one/{frame}.png" in note for note in bundle.notes)
    Image.new("RGB", (9, 8)).save(broken)
    bundle = settings.load()
    assert len(bundle.train) == 3
    assert any("frames of different sizes" in note for note in bundle.notes)


@pytest.mark.case("F20")
def test_a_folder_that_may_be_videos_or_one_video_is_refused(tmp_path) -> None:
    for name in ("train", "val"):
        for label in ("cat", "dog"):
            put(tmp_path / name / label / "one" / "0.png")
    junk(tmp_path / "train" / "cat" / "one" / "0.mp4")
    with pytest.raises(InputError, match=r"holds the video 0\.mp4 and the picture 0\.png"):
        VideoFolder(root=tmp_path, img_size=8, num_frames=1, stride=1).load()
