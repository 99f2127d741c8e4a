"""Videos: the frames that are read are those that were asked for, crops lie where the formula says, lists and broken files are named, and digits move."""

import hashlib
import shutil
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.cli import main
from foveal.lab.data import MovingDigits, VideoFolder
from foveal.lab.data.video import open_clip
from foveal.lab.data.video._sampling import crop_thirds, frame_places, resize_short
from foveal.lab.data.video._stand_in import stand_in_folder, write_video
from foveal.lab.data.video.moving_digits import DIRECTIONS
from foveal.lab.tasks import VideoClassification

av = pytest.importorskip("av")

CELL, BITS = 16, 7


def numbered(count: int, height: int = 48, width: int = 7 * CELL) -> np.ndarray:
    """Frames that show their own number as white and black cells, which coding with loss leaves legible."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for number in range(count):
        for bit in range(BITS):
            frames[number, :, bit * CELL : (bit + 1) * CELL] = 230 * (number >> bit & 1) + 10
    return frames


def number_in(picture: np.ndarray) -> int:
    return sum(int(picture[8:40, bit * CELL + 4 : (bit + 1) * CELL - 4].mean() > 128) << bit for bit in range(BITS))


def write_timed(path: Path, times: list[int], codec: str = "libx264", **options: str) -> None:
    """A numbered video whose frames are shown at these milliseconds."""
    from fractions import Fraction

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = 48, 7 * CELL, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(numbered(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# -- frames ---------------------------------------------------------------------------------------------------------------------------------------

FORMS = {
    "mp4 of frames that refer to later ones": ("v.mp4", "libx264", {"g": "20", "bf": "3"}),
    "mp4 of one key frame": ("v.mp4", "libx264", {"g": "1000", "bf": "2"}),
    "mpeg4": ("v.mp4", "mpeg4", {"g": "12"}),
    "mkv": ("v.mkv", "libx264", {"g": "10"}),
    "webm": ("v.webm", "libvpx-vp9", {"g": "15", "deadline": "realtime", "cpu-used": "8"}),
    "avi": ("v.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg transport stream": ("v.ts", "libx264", {"g": "15", "bf": "2"}),
}


def test_names_of_classes_that_cannot_be_read_are_not_as_if_there_were_none(tmp_path) -> None:
    settings = VideoFolder(root=Path("nowhere"), lists=Path("lists")).smoke_data()
    shutil.copytree(settings.root, tmp_path / "set")
    settings = replace(settings, root=tmp_path / "set")
    names = tmp_path / "set" / "lists" / "classes.txt"
    assert "down-right" in settings.load().classes
    names.unlink()
    assert settings.load().classes[0] == "0"
    names.symlink_to("nothing")
    with pytest.raises(InputError, match=r"classes\.txt"):
        settings.load()
    names.unlink()
    names.mkdir()
    with pytest.raises(InputError, match=r"classes\.txt"):
        settings.load()


@pytest.mark.parametrize("form", FORMS)
def test_the_frames_asked_for_are_read(form, tmp_path) -> None:
    name, codec, options = FORMS[form]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV was built without {codec}")
    write_video(tmp_path / name, numbered(70), codec=codec, options=options)
    with open_clip(tmp_path / name) as clip:
        assert clip.count == 70
        assert clip.rate == pytest.approx(30, rel=1e-2)
        assert [number_in(picture) for picture in clip.read(range(0, 70, 3))] == list(range(0, 70, 3))
        # backwards, repeated, near and far, first and last
        for wanted in ([69, 0], [33, 33, 31], [5], [64, 20, 21, 69, 1]):
            assert [number_in(picture) for picture in clip.read(wanted)] == wanted
        assert clip.read([3])[0].shape == (48, 7 * CELL, 3)


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch) -> None:
    write_video(tmp_path / "v.mp4", numbered(100), codec="libx264", options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with open_clip(tmp_path / "v.mp4") as clip:
        decoded = []
        inner = clip._container

        class Counting:
            def __getattr__(self, name):
                return getattr(inner, name)

            def decode(self, stream):
                for frame in inner.decode(stream):
                    decoded.append(frame.pts)
                    yield frame

        monkeypatch.setattr(clip, "_container", Counting())
        assert [number_in(picture) for picture in clip.read([31, 33, 95])] == [31, 33, 95]
        assert len(decoded) <= 4 + 6 + 2, "from the key frames 30 and 90 on"


def test_of_varying_rates_the_frame_shown_at_a_time_is_read(tmp_path) -> None:
    times = [0, 40, 80, 120, 1000, 1040, 1080, 1120, 1160, 2000]
    write_timed(tmp_path / "v.mkv", times, bf="0")
    with open_clip(tmp_path / "v.mkv") as clip:
        assert clip.count == 10
        assert clip.rate == pytest.approx(9 / 2.0, rel=1e-3)
        at = np.array([0, 0.05, 0.13, 0.9, 1.001, 1.3, 1.9, 2.5]) * clip.rate
        want = [sum(1 for time in times if time / 1000 <= second) - 1 for second in (0, 0.05, 0.13, 0.9, 1.001, 1.3, 1.9, 2.5)]
        assert clip.numbers_at(at) == want
        assert [number_in(picture) for picture in clip.read(want)] == want


@pytest.mark.parametrize("size", [(35, 51), (36, 51), (35, 50)])
def test_odd_sizes(size, tmp_path) -> None:
    frames = np.zeros((3, *size, 3), np.uint8)
    frames[:, :, size[1] // 2 :] = 200
    frames[1, size[0] // 2 :] = 90
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with open_clip(tmp_path / "v.mkv") as clip:
        np.testing.assert_array_equal(np.stack(clip.read([0, 1, 2])), frames)


def test_a_video_filmed_upright_is_read_upright(tmp_path) -> None:
    frames = np.full((4, 32, 64, 3), 20, np.uint8)
    frames[:, :, :16] = 220
    write_video(tmp_path / "v.mp4", frames)
    content = (tmp_path / "v.mp4").read_bytes()
    # the header of the track ends in a matrix; this one turns by a quarter clockwise, as telephones write it
    plain, turned = (struct.pack(">9i", *(value << (30 if n % 3 == 2 else 16) for n, value in enumerate(matrix))) for matrix in (_IDENTITY, _CLOCKWISE))
    at = content.index(b"tkhd")
    assert plain in content[at : at + 92]
    (tmp_path / "v.mp4").write_bytes(content[:at] + content[at:].replace(plain, turned, 1))
    with open_clip(tmp_path / "v.mp4") as clip:
        picture = clip.read([2])[0]
    assert picture.shape == (64, 32, 3)
    assert picture[:14].mean() > 200, "what was on the left is above"
    assert picture[20:].mean() < 40


_IDENTITY, _CLOCKWISE = (1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 1, 0, -1, 0, 0, 0, 0, 1)


def test_a_folder_of_pictures_is_a_video(tmp_path) -> None:
    for number, picture in enumerate(numbered(12)):
        Image.fromarray(picture).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").touch()
    with open_clip(tmp_path) as clip:
        assert (clip.count, clip.rate) == (12, None)
        # by number: frame10 comes behind frame9
        assert [number_in(picture) for picture in clip.read([2, 10, 11, 0])] == [2, 10, 11, 0]
    Image.new("RGB", (5, 5)).save(tmp_path / "frame12.png")
    with open_clip(tmp_path) as clip, pytest.raises(InputError, match="frames of different sizes"):
        clip.read([0, 12])


def test_what_is_no_video_is_named(tmp_path) -> None:
    def refused(name: str, says: str) -> None:
        with pytest.raises(InputError, match=says) as caught, open_clip(tmp_path / name) as clip:
            clip.read([0])
        assert str(tmp_path / name) in str(caught.value)

    (tmp_path / "text.mp4").write_text("no video at all")
    refused("text.mp4", "cannot read the video")
    (tmp_path / "empty.mp4").touch()
    refused("empty.mp4", "cannot read the video")
    refused("none.mp4", "does not exist")
    (tmp_path / "folder").mkdir()
    refused("folder", "holds no pictures")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused("sound.mkv", "has no video stream")
    with av.open(str(tmp_path / "nothing.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    refused("nothing.mkv", "has no frames|cannot read the video")


def test_of_a_cut_file_the_frames_that_are_there_are_read(tmp_path) -> None:
    write_video(tmp_path / "v.mkv", numbered(60), codec="mpeg4", options={"g": "5"})
    content = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(content[: len(content) // 2])
    with open_clip(tmp_path / "v.mkv") as clip:
        assert 10 < clip.count < 50
        assert number_in(clip.read([clip.count - 2])[0]) == clip.count - 2


# -- clips and crops ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "length", "share"), [(300, 256.0, 0.5), (300, 256.0, 0.0), (300, 256.0, 1.0), (100, 256.0, 0.5), (1, 9.0, 0.7), (50, 0.4, 0.5)]
)
def test_places_of_frames_are_those_of_the_formula(count, length, share) -> None:
    start = share * max(count - length, 0)
    span = max(length, 1) - 1
    want = [min(int(start + n * span / 7), count - 1) for n in range(8)]
    assert [int(place) for place in frame_places(count, length, 8, share)] == want
    if count < length:
        assert want[-1] == count - 1 == want[-2], "the last frame is repeated"


def test_crops_lie_at_the_ends_and_in_the_middle_of_the_longer_side() -> None:
    wide = torch.arange(5 * 12.0).view(1, 1, 5, 12)
    for frames, axis in ((wide, -1), (wide.mT, -2)):
        for place, start in ((0, 0), (1, 4), (2, 7)):
            want = frames.narrow(axis, start, 5)
            assert torch.equal(crop_thirds(frames, 5, place), want)


def test_the_shorter_side_is_resized_and_the_other_in_proportion() -> None:
    assert resize_short(torch.zeros(2, 3, 48, 67), 32).shape == (2, 3, 32, 44)
    assert resize_short(torch.zeros(2, 3, 67, 48), 32).shape == (2, 3, 44, 32)
    same = torch.rand(2, 3, 32, 40)
    assert resize_short(same, 32) is same
    # pixels lie in the middle of their area, and nothing is averaged: OpenCV's and the official convention
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    torch.testing.assert_close(resize_short(ramp, 2), torch.tensor([0.5, 2.5, 4.5, 6.5]).expand(1, 1, 2, 4))


# -- folders and lists ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Six numbered videos in folders of two classes; those of class b are brighter below."""
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 2), ("val", 1)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                frames = numbered(40)
                frames[:, 40:] = 250 if name == "b" else 0
                write_video(root / split / name / f"{number} of, {count}.mp4", frames, codec="mpeg4", options={"g": "8"})
    return root


SETTINGS = {"img_size": 48, "num_frames": 5, "stride": 4, "jitter": (48, 48), "hflip": False}


def numbers_in(clip: torch.Tensor) -> list[int]:
    """What frames ``(C, T, 48, ·)`` show, as far as a crop of 48 pixels shows it: the three lowest bits."""
    pictures = ((clip * 0.225 + 0.45) * 255).permute(1, 2, 3, 0).numpy()
    return [sum(int(picture[8:38, bit * CELL + 4 : (bit + 1) * CELL - 4].mean() > 128) << bit for bit in range(3)) for picture in pictures]


def test_folders_are_read_as_the_formula_says(videos) -> None:
    bundle = VideoFolder(root=videos, **SETTINGS).load()
    assert (bundle.classes, bundle.img_size, bundle.in_chans, bundle.num_frames) == (["a", "b"], 48, 3, 5)
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (4, 2, 2)
    assert bundle.notes == ["there is no test split: the final numbers are those of the videos of val, in the views of a test"]
    assert [bundle.train[n][1] for n in range(4)] == [0, 0, 1, 1]
    clip, label = bundle.test[1]
    assert (clip.shape, clip.dtype, label) == ((3, 3, 5, 48, 48), torch.float32, 1)
    assert clip[0, :, :, 42:].mean() > 1.5 > 0 > bundle.test[0][0][0, :, :, 42:].mean()
    # 20 frames in the middle of 40, at the video's own 30 a second: 10, 14, 19, 24, 29
    want = [10, 14, 19, 24, 29]
    assert numbers_in(clip[0]) == [number % 8 for number in want]
    middle = bundle.val[1][0]
    assert middle.shape == (3, 5, 48, 48)
    torch.testing.assert_close(clip[1], middle)
    with pytest.raises(InputError, match="takes no single image"):
        bundle.prepare(Image.new("RGB", (9, 9)))


def test_half_the_frame_rate_is_half_as_many_frames(videos) -> None:
    slower = VideoFolder(root=videos, **SETTINGS, target_fps=60.0).load()
    # 20 frames at 60 a second are 10 of this video: 15 to 24
    assert numbers_in(slower.test[0][0][0]) == [number % 8 for number in (15, 17, 19, 21, 24)]
    own = VideoFolder(root=videos, **SETTINGS, target_fps=None).load()
    assert numbers_in(own.test[0][0][0]) == [number % 8 for number in (10, 14, 19, 24, 29)]


def test_training_draws_and_a_video_too_short_repeats_its_end(videos) -> None:
    bundle = VideoFolder(root=videos, **SETTINGS | {"img_size": 32, "jitter": (40, 60), "hflip": True}).load()
    assert bundle.train.augments
    assert not bundle.val.augments
    torch.manual_seed(0)
    first = [bundle.train[0][0] for _ in range(4)]
    torch.manual_seed(0)
    assert all(torch.equal(clip, bundle.train[0][0]) for clip in first)
    assert not torch.equal(first[0], first[1])
    assert all(clip.shape == (3, 5, 32, 32) for clip in first)
    long = VideoFolder(root=videos, **SETTINGS | {"stride": 30}).load()
    # 150 frames from the first on: 0, 37, and then only the last
    assert numbers_in(long.test[0][0][0]) == [number % 8 for number in (0, 37, 39, 39, 39)]


def test_flips_mirror_some_training_clips_and_no_others(tmp_path) -> None:
    frames = np.zeros((6, 32, 32, 3), np.uint8)
    frames[:, :, :16] = 255
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        write_video(tmp_path / place / "v.mp4", frames)
    settings = VideoFolder(root=tmp_path, img_size=32, num_frames=2, stride=1, jitter=(32, 32))

    def left_is_bright(clip: torch.Tensor) -> bool:
        return bool(clip[..., :16].mean() > clip[..., 16:].mean())

    mirrored, plain = settings.load(), replace(settings, hflip=False).load()
    seen = [left_is_bright(mirrored.train[0][0]) for _ in range(40)]
    assert 8 < sum(seen) < 32
    assert all(left_is_bright(plain.train[0][0]) for _ in range(10))
    assert all(left_is_bright(mirrored.val[0][0]) for _ in range(10))


LISTS = {
    "spaces": "train/a/0 of, 2.mp4 0\ntrain/b/0 of, 2.mp4 2\n\n",
    "commas": "train/a/0 of, 2.mp4,0\n  train/b/0 of, 2.mp4 , 2\n",
    "tabs": "train/a/0 of, 2.mp4\t0\r\ntrain/b/0 of, 2.mp4\t2\r\n",
}


def listed(folder: Path, text: str, val: str = "val/a/0 of, 1.mp4 0\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_bytes(text.encode())
    (folder / "val.csv").write_text(val)
    return folder


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists_name_videos_and_classes(text, videos, tmp_path) -> None:
    settings = VideoFolder(root=videos, lists=listed(tmp_path / "lists", text), **SETTINGS)
    bundle = settings.load()
    assert [path for path, _ in bundle.train.videos] == [videos / "train" / name / "0 of, 2.mp4" for name in "ab"]
    assert [label for _, label in bundle.train.videos] == [0, 2]
    assert bundle.classes == ["0", "1", "2"]
    assert bundle.notes[0] == "1 of 3 classes have no training video: 1"
    (tmp_path / "lists" / "classes.txt").write_text("walk\nrun\njump\n")
    assert settings.load().classes == ["walk", "run", "jump"]
    (tmp_path / "lists" / "classes.txt").write_text("walk\nrun\n")
    with pytest.raises(InputError, match="has 2 lines; expected different names, one for each class"):
        settings.load()


@pytest.mark.parametrize("line", ["train/a/0.mp4", "0", "a.mp4 walk", "a.mp4 -1", "a.mp4 1.5", "a.mp4;1"])
def test_lines_that_cannot_be_read_are_named(line, videos, tmp_path) -> None:
    settings = VideoFolder(root=videos, lists=listed(tmp_path / "lists", f"train/a/0.mp4 0\n{line}\n"), **SETTINGS)
    with pytest.raises(InputError, match=r"train.csv, line 2: expected a path and the number of a class"):
        settings.load()


def test_missing_and_broken_videos_are_left_out_and_named_or_stop_the_run(videos, tmp_path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    settings = VideoFolder(root=videos, lists=listed(tmp_path, f"{tmp_path}/broken.mp4 0\nmissing.mp4 1\ntrain/a/0 of, 2.mp4 0\n"), **SETTINGS)
    bundle = settings.load()
    assert len(bundle.train) == 1
    (note,) = (note for note in bundle.notes if "left out" in note)
    assert note.startswith("2 of 3 videos of train were left out: ")
    assert f"cannot read the video {tmp_path}/broken.mp4" in note
    assert f"{videos}/missing.mp4 does not exist" in note
    unchecked = replace(settings, check=False).load()
    for index, says in ((0, "broken.mp4"), (1, "missing.mp4 does not exist")):
        with pytest.raises(InputError, match=says):
            unchecked.train[index]
    with pytest.raises(InputError, match=r"none of the 1 videos of val can be read: .*gone\.mp4"):
        replace(settings, lists=listed(tmp_path, "train/a/0 of, 2.mp4 0\n", "gone.mp4 0\n")).load()


def test_layouts_that_are_not_whole_are_refused(videos, tmp_path) -> None:
    def refused(says: str, root: Path = tmp_path, **changes) -> None:
        with pytest.raises(InputError, match=says):
            VideoFolder(root=root, **SETTINGS | changes).load()

    refused("does not exist", tmp_path / "none")
    refused("has neither train.csv nor train/")
    refused("has no train.csv and val.csv", lists=Path("lists"))
    (tmp_path / "train" / "a").mkdir(parents=True)
    refused("has neither val.csv nor val/")
    (tmp_path / "val").mkdir()
    refused("1 class folders; at least 2")
    (tmp_path / "train" / "b").mkdir()
    refused("no videos for a; b")
    (tmp_path / "train.csv").write_text("\n")
    refused("has train.csv but no val.csv")
    (tmp_path / "val.csv").write_text("a.mp4 0\n")
    refused("names no video")
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe 0\n")
    refused("cannot read .*train.csv")
    for change, says in (({"num_frames": 0}, "num_frames"), ({"stride": 0}, "stride"), ({"target_fps": 0.0}, "target_fps"), ({"jitter": (40, 60)}, "jitter")):
        refused(says, videos, **change)


def test_folders_of_pictures_stand_in_class_folders(tmp_path) -> None:
    for place in ("train/a/one", "train/a/day/two", "train/b/one", "val/a/one", "val/b/one"):
        (tmp_path / place).mkdir(parents=True)
        for number, picture in enumerate(numbered(20)):
            Image.fromarray(picture).save(tmp_path / place / f"{number + 1:06}.png")
    bundle = VideoFolder(root=tmp_path, **SETTINGS | {"stride": 2}).load()
    assert [path.name for path, _ in bundle.train.videos] == ["two", "one", "one"]
    assert numbers_in(bundle.test[0][0][0]) == [number % 8 for number in (5, 7, 9, 11, 14)]


def test_published_numbers_are_the_defaults() -> None:
    settings = VideoFolder(root=Path("DIR"))
    assert (settings.img_size, settings.num_frames, settings.stride, settings.sides, settings.mean, settings.std) == (224, 8, 32, (256, 320), 0.45, 0.225)
    assert replace(settings, img_size=112).sides == (128, 160)


# -- the stand-in ---------------------------------------------------------------------------------------------------------------------------------


def test_a_stand_in_is_real_video_read_in_the_same_way(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    folders = VideoFolder(root=tmp_path / "none").smoke_data()
    lists = VideoFolder(root=tmp_path / "none", lists=Path("CS"), test_crops=1).smoke_data()
    assert (folders.lists, lists.lists, lists.test_crops) == (None, Path("lists"), 1)
    assert folders.smoke_data() is folders
    first, second = folders.load(), lists.load()
    assert sorted(first.classes) == sorted(second.classes) == sorted(DIRECTIONS)
    assert (len(first.train), len(first.val)) == (24, 8)
    assert first.test[0][0].shape == (3, 3, 3, 32, 32)
    named = {(path, first.classes[label]) for path, label in first.train.videos}
    assert named == {(path, second.classes[label]) for path, label in second.train.videos}
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.mp4")}
    assert len(written) == 32
    assert stand_in_folder() == folders.root
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.mp4")} == written


def test_two_at_once_may_write_the_stand_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    # neither begins to write before both have found nothing
    both, make = Barrier(2), tempfile.mkdtemp

    def wait(*options: str) -> str:
        both.wait(60)
        return make(*options)

    monkeypatch.setattr(tempfile, "mkdtemp", wait)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: stand_in_folder(), range(2))
    assert first == second
    assert len(list(first.rglob("*.mp4"))) == 32
    assert list(first.parent.iterdir()) == [first], "nothing is left beside it"


# -- moving digits --------------------------------------------------------------------------------------------------------------------------------

EXACT = MovingDigits(source="digits", side=24, digit=8, num_frames=5, step=(2, 3), distractors=0, noise=0.0, train_clips=80, val_clips=10, test_clips=400)


def test_a_digit_moves_the_way_its_label_says() -> None:
    bundle = EXACT.load()
    assert bundle.classes == list(DIRECTIONS)
    steps = set()
    for index in range(40):
        clip, label = bundle.test[index]
        assert (clip.shape, clip.dtype) == ((1, 5, 24, 24), torch.float32)
        down, right = DIRECTIONS[bundle.classes[label]]
        fits = [step for step in (2, 3) if all(torch.equal(clip[0, t].roll((step * down, step * right), (0, 1)), clip[0, t + 1]) for t in range(4))]
        assert len(fits) == 1
        steps |= set(fits)
    assert steps == {2, 3}


def test_a_frame_alone_says_nothing_of_the_direction() -> None:
    bundle = replace(EXACT, test_clips=2000).load()
    for time in (0, 4):
        rows = torch.zeros(len(DIRECTIONS), 24)
        columns = torch.zeros(len(DIRECTIONS), 24)
        for index in range(len(bundle.test)):
            clip, label = bundle.test[index]
            frame = clip[0, time] - clip[0, time].min()
            # where the digit is on a square without a border: the angle of its center
            rows[label, place(frame.sum(1))] += 1
            columns[label, place(frame.sum(0))] += 1
        for counts in (rows, columns):
            share = counts.view(len(DIRECTIONS), 6, 4).sum(-1) / counts.sum(1, keepdim=True)
            assert (share - 1 / 6).abs().max() < 0.1, "spread evenly, whatever the direction"


def test_backwards_a_clip_goes_the_opposite_way() -> None:
    """So frames without their order do not tell the two apart: no model that ignores it is right more than half of the time."""
    bundle, names = EXACT.load(), list(DIRECTIONS)
    for index in range(16):
        clip, label = bundle.test[index]
        down, right = DIRECTIONS[names[(label + 4) % 8]]
        assert (down, right) == tuple(-step for step in DIRECTIONS[names[label]])
        backwards = clip.flip(1)
        assert any(torch.equal(backwards[0, 0].roll((step * down, step * right), (0, 1)), backwards[0, 1]) for step in (2, 3))


def place(mass: torch.Tensor) -> int:
    angle = torch.arange(24) * (2 * torch.pi / 24)
    return int(torch.atan2((mass * angle.sin()).sum(), (mass * angle.cos()).sum()) / (2 * torch.pi) * 24) % 24


def test_distractors_are_dimmer_and_go_another_way() -> None:
    alone, beside = EXACT.load(), replace(EXACT, distractors=1, distractor_level=0.5).load()
    for index in range(20):
        (clip, label), (both, same) = alone.test[index], beside.test[index]
        assert label == same or not torch.equal(clip, both)
        pixels = both[0] * 0.25 + 0.13
        assert pixels.max() > 0.9
        assert ((pixels > 0.05) & (pixels < 0.55)).sum() > 20


def test_splits_are_of_different_digits_and_decided_by_the_settings() -> None:
    def digest(settings: MovingDigits) -> str:
        bundle, hashed = settings.load(), hashlib.sha256()
        for split in (bundle.train, bundle.val, bundle.test):
            for index in range(8):
                clip, label = split[index]
                hashed.update(clip.numpy().tobytes() + bytes([label]))
        return hashed.hexdigest()

    noisy = replace(EXACT, distractors=1, noise=0.1)
    assert digest(noisy) == digest(replace(noisy, test_clips=12)) != digest(replace(noisy, seed=1))
    bundle = EXACT.load()
    used = [{split._digits[n].tobytes() for n in range(len(split._digits))} for split in (bundle.train, bundle.val, bundle.test)]
    assert not used[0] & used[1]
    assert not used[0] & used[2]
    assert not used[1] & used[2]


@pytest.mark.parametrize(
    "change",
    [
        {"digit": 3},
        {"digit": 25},
        {"num_frames": 1},
        {"step": (0, 2)},
        {"step": (3, 2)},
        {"step": (2, 12)},
        {"distractors": -1},
        {"noise": -0.1},
        {"val_clips": 0},
    ],
)
def test_numbers_that_make_no_clip_are_refused(change) -> None:
    with pytest.raises(InputError):
        replace(EXACT, **change)


def test_the_catalogue_shows_frames_in_a_row(tmp_path, capsys) -> None:
    words = ["--source", "digits", "--train-clips", "9", "--count", "2", "--out", str(tmp_path)]
    assert main(["data", "show", "moving-digits", *words]) == 0
    with Image.open(tmp_path / "MovingDigits-train.png") as sheet:
        assert sheet.width > 4 * 100 > 300
        assert sheet.height < sheet.width
    page = (tmp_path / "MovingDigits-train.html").read_text()
    assert page.count("<img") == 8
    rows = VideoClassification().draw_truth([MovingDigits(source="digits", train_clips=9).load().train[0]], MovingDigits(source="digits", train_clips=9).load())
    assert [len(row.cells) for row in rows] == [4]
