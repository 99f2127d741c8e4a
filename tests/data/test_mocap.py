"""Recorded motions: files and poses against slow arithmetic, splits by what was drawn for them, and pictures where pybullet is installed."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal import InputError
from foveal._errors import MissingExtra
from foveal.lab.data import MocapClips
from foveal.lab.data.video import mocap
from foveal.lab.data.video._figure import View
from foveal.lab.data.video._motions import JOINTS, Motion, Pose, between, read_motion
from foveal.lab.tasks import VideoClassification


def frames(count: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = [np.array([0.1 * (index + 1), *rng.normal(size=3)]) for index in range(count)]
    columns = [4, *(width for _, width in JOINTS)]
    turns = []
    for _ in range(count):
        parts = [rng.normal(size=width) for width in columns]
        turns.append(np.concatenate([part / np.linalg.norm(part) if len(part) == 4 else part for part in parts]))
    return np.stack([np.concatenate(pair) for pair in zip(made, turns, strict=True)])


def write(path: Path, loop: str = "none", **changed) -> Path:
    path.write_text(json.dumps({"Loop": loop, "Frames": frames().tolist(), **changed}))
    return path


def matrix(turn: np.ndarray) -> np.ndarray:
    x, y, z, w = turn
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_a_pose_between_two_frames_turns_by_the_same_share(tmp_path) -> None:
    motion = read_motion(write(tmp_path / "a.txt"), "a")
    assert motion.seconds == pytest.approx(0.1 + 0.2 + 0.3 + 0.4)
    pose = motion.pose(0.1 + 0.2 * 0.25)
    first, second = motion.frames[1], motion.frames[2]
    np.testing.assert_allclose(pose.place, 0.75 * first[1:4] + 0.25 * second[1:4])
    assert pose.joints["right_knee"] == pytest.approx(0.75 * first[20] + 0.25 * second[20])
    # by rotation matrices: the angle from the first is a quarter of the whole, about the same axis
    whole = matrix(np.roll(first[4:8], -1)).T @ matrix(np.roll(second[4:8], -1))
    part = matrix(np.roll(first[4:8], -1)).T @ matrix(pose.turn)
    angle = math.acos((np.trace(whole) - 1) / 2)
    assert math.acos((np.trace(part) - 1) / 2) == pytest.approx(angle / 4, abs=1e-6)
    np.testing.assert_allclose(part @ part @ part @ part, whole, atol=1e-6)


@pytest.mark.parametrize(("time", "frame"), [(0.0, 0), (0.1, 1), (0.3, 2), (1.0, 4), (-1.0, 0), (9.0, 4)])
def test_poses_at_frames_are_these(tmp_path, time, frame) -> None:
    motion = read_motion(write(tmp_path / "a.txt"), "a")
    pose = motion.pose(time)
    np.testing.assert_allclose(pose.place, motion.frames[frame, 1:4], atol=1e-9)
    assert abs(pose.turn @ np.roll(motion.frames[frame, 4:8], -1)) == pytest.approx(1)


def test_a_cycle_goes_on_where_it_came_to() -> None:
    made = frames(4)
    made[-1, 4:] = made[0, 4:]
    motion = Motion("a", made, wraps=True)
    later, now = motion.pose(motion.seconds + 0.15), motion.pose(0.15)
    np.testing.assert_allclose(later.turn, now.turn, atol=1e-9)
    np.testing.assert_allclose(later.place - now.place, (made[-1, 1:4] - made[0, 1:4]) * [1, 0, 1], atol=1e-9)


def test_files_call_more_motions_cyclic_than_are(tmp_path) -> None:
    assert not read_motion(write(tmp_path / "a.txt", "none"), "a").wraps
    closed = frames()
    closed[-1, 4:] = closed[0, 4:]
    assert read_motion(write(tmp_path / "b.txt", "wrap", Frames=closed.tolist()), "b").wraps
    jumps = np.repeat(frames(1), 6, axis=0)
    jumps[-1, 20] += 1.0
    jumps[1:-1, 20] = [0.1, 0.3, 0.5, 0.8] + jumps[0, 20]
    assert not read_motion(write(tmp_path / "c.txt", "wrap", Frames=jumps.tolist()), "c").wraps


def test_turns_take_the_shorter_way() -> None:
    first, second = np.array([1.0, 0, 0, 0]), np.array([math.cos(0.2), math.sin(0.2), 0, 0])
    np.testing.assert_allclose(between(first, -second, 0.5), between(first, second, 0.5))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"Frames": []}, "two of them"),
        ({"Frames": [[0.1] * 43] * 3}, "44 numbers"),
        ({"Frames": [[0.0] * 44] * 3}, "lasting"),
        ({"Frames": [[0.1] * 43 + ["x"]] * 3}, "ValueError"),
        ({"Frames": [[0.1] * 44, [0.1] * 3]}, "ValueError"),
        ({"Frames": None}, "44 numbers|TypeError"),
    ],
)
def test_broken_recordings_are_refused_by_name(tmp_path, changed, says) -> None:
    with pytest.raises(InputError, match=rf"walk\.txt.*({says})"):
        read_motion(write(tmp_path / "walk.txt", **changed), "walk")


def test_a_recording_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"walk\.txt cannot be read"):
        read_motion(tmp_path / "walk.txt", "walk")
    (tmp_path / "walk.txt").write_text('{"Loop": "none"}')
    with pytest.raises(InputError, match="KeyError"):
        read_motion(tmp_path / "walk.txt", "walk")


class Marks:
    """In place of the renderer: frames whose first pixel says when, and a list of all views."""

    views: list[View]

    def __init__(self) -> None:
        self.views, self.poses = [], []

    def draw(self, poses: list[Pose], view: View, side: int) -> np.ndarray:
        self.views.append(view)
        self.poses.append(poses)
        return np.stack([np.full((side, side, 3), number, np.uint8) for number in range(len(poses))])


@pytest.fixture
def marks(tmp_path, monkeypatch) -> Marks:
    import contextlib

    marks = Marks()
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mocap, "require", lambda purpose, modules: None)
    monkeypatch.setattr(mocap, "packaged", lambda *parts, **more: tmp_path)
    monkeypatch.setattr(mocap, "renderer", lambda folder: contextlib.nullcontext(marks))
    (tmp_path / "data" / "motions").mkdir(parents=True)
    for name in mocap.ACTIONS:
        write(tmp_path / "data" / "motions" / f"humanoid3d_{name}.txt")
    return marks


def test_splits_are_seen_from_other_sides_at_other_moments(marks) -> None:
    data = MocapClips(train_clips=150, val_clips=50, test_clips=70, side=16, num_frames=4, seconds=0.4)
    bundle = data.load()
    motions = [Motion(name, frames(), wraps=False) for name in mocap.ACTIONS]
    counts = {"train": 150, "val": 50, "test": 70}
    plans = [data._plan(split, index, motions) for split, count in counts.items() for index in range(count)]
    assert [view.yaw for view in marks.views] == [plan.view.yaw for plan in plans]
    # what a mirrored picture shows is the mirrored performer, from another side
    assert 90 < sum(plan.mirrored for plan in plans) < 180
    yaws = [(180 - plan.view.yaw if plan.mirrored else plan.view.yaw) for plan in plans]
    assert 0 <= min(yaws[:150]) < 60
    assert 180 < max(yaws[:150]) < 240
    assert all(240 <= yaw < 300 for yaw in yaws[150:200])
    assert all(300 <= yaw < 360 for yaw in yaws[200:])
    # which twentieth of the room a clip begins in
    fifths = []
    for split, count in counts.items():
        found = set()
        for index in range(count):
            plan = data._plan(split, index, motions)
            start, end = min(plan.times), max(plan.times)
            assert end <= plan.motion.seconds + 1e-9
            room = plan.motion.seconds - (end - start)
            if room > 1e-6:
                found.add(int(start / room * 20 + 1e-9) % 5)
        fifths.append(found)
    assert fifths == [{0, 1, 2}, {3}, {4}]
    assert set(bundle.train.labels.tolist()) == set(range(30)) == set(range(len(bundle.classes)))


def test_backward_is_the_same_clip_from_its_end(marks) -> None:
    data = MocapClips(side=16, num_frames=4)
    motions = [Motion(name, frames(), wraps=False) for name in mocap.ACTIONS]
    plans = [data._plan("train", index, motions) for index in range(60)]
    assert {plan.label % 2 for plan in plans} == {0, 1}
    for plan in plans:
        assert list(plan.times) == sorted(plan.times, reverse=bool(plan.label % 2))
        assert plan.motion.name == mocap.ACTIONS[plan.label // 2]


def test_what_is_in_the_cache_needs_no_renderer(marks, monkeypatch) -> None:
    data = MocapClips(train_clips=5, val_clips=3, test_clips=4, side=16)
    first = data.load()
    drawn = len(marks.views)

    def never(*parts, **more):
        raise AssertionError("drawn again")

    monkeypatch.setattr(mocap, "packaged", never)
    again = data.load()
    assert len(marks.views) == drawn == 12
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(first, split)[1][0], getattr(again, split)[1][0])
    with pytest.raises(AssertionError, match="drawn again"):
        MocapClips(train_clips=5, val_clips=3, test_clips=4, side=16, seed=1).load()


def test_shuffled_frames_are_the_same_frames(marks) -> None:
    bundle = MocapClips(train_clips=2, val_clips=2, test_clips=20, side=16).load()
    shuffled, moved = bundle.probes["frames_shuffled"], 0
    for index in range(20):
        clip, label = bundle.test[index]
        other, same = shuffled[index]
        assert label == same
        assert torch.equal(other, shuffled[index][0])
        assert sorted(clip[0, :, 0, 0].tolist()) == sorted(other[0, :, 0, 0].tolist())
        moved += not torch.equal(clip, other)
    assert moved >= 18


def test_action_and_direction_are_counted_apart(marks) -> None:
    bundle = MocapClips(train_clips=2, val_clips=2, test_clips=40, side=16).load()
    task = VideoClassification()
    metrics = task.metrics(bundle)
    logits, labels = torch.randn(40, 30), torch.randint(30, (40,))
    task.update(metrics, logits, labels)
    got, best = metrics.compute(), logits.argmax(-1)
    assert float(got["action_accuracy"]) == pytest.approx(sum(int(a) // 2 == int(b) // 2 for a, b in zip(best, labels, strict=True)) / 40)
    assert float(got["direction_accuracy"]) == pytest.approx(sum(int(a) % 2 == int(b) % 2 for a, b in zip(best, labels, strict=True)) / 40)


@pytest.mark.parametrize("wrong", [{"speed": (2.0, 1.0)}, {"speed": (0.0, 1.0)}, {"seconds": 0.0}, {"num_frames": 1}, {"side": 8}, {"val_clips": 0}])
def test_settings_that_make_no_clip(wrong) -> None:
    with pytest.raises(InputError):
        MocapClips(**wrong)


def test_without_the_package_the_remedy_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    monkeypatch.setattr("foveal._errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'foveal\[mocap\]"'):
        MocapClips().load()


@pytest.mark.skipif(find_spec("pybullet") is None, reason="pybullet is not installed (extra mocap)")
def test_pictures_show_a_figure_that_moves(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    data = MocapClips(train_clips=12, val_clips=2, test_clips=2)
    clips = data.load().train.frames.astype(float)
    figure = (clips < 200).any(-1).mean((2, 3))
    assert (figure > 0.005).all()
    assert (figure < 0.4).all()
    assert (np.abs(np.diff(clips, axis=1)).max((1, 2, 3, 4)) > 50).all()
    other = tmp_path / "other"
    monkeypatch.setenv("FOVEAL_CACHE", str(other))
    assert np.array_equal(data.load().train.frames, clips), "the renderer draws the same twice"


@pytest.mark.skipif(find_spec("pybullet") is None, reason="pybullet is not installed (extra mocap)")
def test_a_mirrored_picture_is_the_mirrored_performer_from_the_other_side() -> None:
    import pybullet

    def camera(yaw: float) -> np.ndarray:
        seen = np.reshape(pybullet.computeViewMatrixFromYawPitchRoll([0, 0, 0], 2.0, yaw, -10, 0, 1), (4, 4)).T
        return np.linalg.inv(seen)[:3, 3]

    for yaw in (20.0, 65.0, 110.0, 200.0):
        np.testing.assert_allclose(camera(yaw) * [1, 1, -1], camera(mocap._MIRRORED - yaw), atol=1e-5)
