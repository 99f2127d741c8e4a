"""Sets of clouds in files: their true formats read back, official splits, the cache, what training varies, and broken files, which messages name."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal import InputError
from foveal.lab.data import Data, ModelNet40H5, ModelNet40Off, ModelNet40Txt, ShapeNetPartH5, ShapeNetPartTxt, _cache
from foveal.lab.data.points import PARTS_OF, _miniature, modelnet
from foveal.lab.data.points._clouds import Clouds
from foveal.lab.recipes import get_recipe

NOWHERE = Path("nowhere")
h5 = pytest.mark.skipif(find_spec("h5py") is None, reason="needs h5py: pip install 'foveal[points]'")
SETS = [
    pytest.param(ModelNet40H5, marks=h5),
    ModelNet40Off,
    ModelNet40Txt,
    pytest.param(ShapeNetPartH5, marks=h5),
    ShapeNetPartTxt,
]
STILL = {"scale": (1.0, 1.0), "shift": 0.0, "point_dropout": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _cached(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def copied(cls: type, tmp_path: Path) -> Data:
    """The set on files that may be broken."""
    small = cls(root=NOWHERE).smoke_data()
    shutil.copytree(small.root, tmp_path / "set")
    return replace(small, root=tmp_path / "set")


def unit(cloud: np.ndarray) -> np.ndarray:
    moved = cloud - cloud.mean(0)
    return moved / np.sqrt((moved**2).sum(1)).max()


@pytest.mark.parametrize("cls", SETS)
def test_files_come_back_as_they_were_written(cls) -> None:
    bundle = cls(root=NOWHERE).smoke_data().load()
    parts = cls.targets == "parts"
    assert (len(bundle.train), len(bundle.test), bundle.in_chans, bundle.num_points) == (16, 6, 3, 64)
    assert bundle.classes == ([f"{name} {n}" for name, own in PARTS_OF.items() for n in range(len(own))] if parts else bundle.classes)
    if cls is ModelNet40Off:
        assert bundle.classes == ["box", "pyramid"]
        return
    written = list(_miniature._solids("test"))
    for index in range(6):
        item, target = bundle.test[index]
        points, label = item if parts else (item, target)
        # files of several pieces interleave nothing here: the test is one file
        kind, _, cloud = written[index]
        want = cloud[:, :3] if cls in (ModelNet40H5, ShapeNetPartH5) else unit(cloud[:, :3].round(6).astype(np.float64))
        if cls is ShapeNetPartTxt:
            assert sorted(map(tuple, points.numpy().round(4).tolist())) == sorted(map(tuple, want.astype("f4").round(4).tolist()))
        else:
            np.testing.assert_allclose(points.numpy(), want, atol=2e-6)
        assert label == (kind if not parts else (0, 15)[kind])
    if parts:
        for (points, shape), labels in (bundle.test[n] for n in range(6)):
            assert set(labels.tolist()) == set(PARTS_OF[list(PARTS_OF)[shape]])
            # parts lie one above the other along y
            tops = [points[labels == part, 1].max() for part in sorted(set(labels.tolist()))]
            assert tops == sorted(tops)


@pytest.mark.parametrize("cls", SETS)
def test_splits_are_the_official_ones(cls) -> None:
    bundle = cls(root=NOWHERE).smoke_data().load()
    if cls.targets == "shapes":
        assert bundle.val is bundle.test
        assert "no validation split" in bundle.notes[0]
        return
    assert len(bundle.val) == 6
    assert bundle.val is not bundle.test
    both = replace(cls(root=NOWHERE).smoke_data(), train_on="trainval").load()
    assert len(both.train) == 16 + 6
    assert both.val is both.test
    assert "validation is the test split" in both.notes[0]
    inside = {tuple(cloud.flatten()[:6].tolist()) for cloud in np.split(both.train.stored.points, both.train.stored.ends[:-1])}
    assert {tuple(cloud.flatten()[:6].tolist()) for cloud in np.split(bundle.val.stored.points, bundle.val.stored.ends[:-1])} <= inside
    kept = both.train.stored
    assert np.array_equal(kept.parts[kept.span(20)], bundle.val.stored.parts[bundle.val.stored.span(4)])


def test_points_of_a_mesh_lie_on_it_and_follow_its_name_and_the_seed(tmp_path) -> None:
    settings = replace(copied(ModelNet40Off, tmp_path), num_points=400)
    assert isinstance(settings, ModelNet40Off)
    path = settings.root / "box" / "test" / "box_0009.off"
    points = settings.cloud(path)
    corners = np.array([line.split() for line in path.read_text().splitlines() if len(line.split()) == 3 and "OFF" not in line][-8:], float)
    sides = np.abs(corners).max(0)
    inside = np.abs(points[:, :3]) / sides
    assert (inside <= 1 + 1e-6).all()
    np.testing.assert_allclose(inside.max(1), 1, atol=1e-6, err_msg="each on a face")
    assert np.array_equal(points, settings.cloud(path))
    assert not np.array_equal(points, replace(settings, seed=1).cloud(path))
    other = path.with_name("box_0010.off")
    shutil.copy(path, other)
    assert not np.array_equal(points, settings.cloud(other)), "another file is drawn by itself"


@pytest.mark.parametrize(("cls", "reader"), [(ModelNet40Off, "read_off"), (ModelNet40Txt, "read_cloud_txt")])
def test_what_was_read_is_kept_until_a_file_changes(cls, reader, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    settings = copied(cls, tmp_path)
    first = settings.load()
    calls = []
    real = getattr(modelnet, reader)
    monkeypatch.setattr(modelnet, reader, lambda path, *args, **options: calls.append(path) or real(path, *args, **options))
    again = settings.load()
    assert not calls
    assert np.array_equal(first.train.stored.points, again.train.stored.points)
    # normals are kept whether they are wanted or not
    assert replace(settings, normals=True).load().test[0][0].shape == (64, 6)
    assert not calls
    name, text = next((file, file.read_text()) for file in sorted(settings.root.rglob("*_0009.*")))
    name.write_text(text.replace("0.5", "0.6", 1) if "0.5" in text else text + "\n")
    settings.load()
    assert len(calls) == 6, "the test alone was read anew"
    kept = sorted((tmp_path / "cache" / "clouds").iterdir())
    assert len(kept) == 3
    assert not any(path.name.startswith(".") for path in kept)
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    calls.clear()
    assert np.array_equal(settings.load().train.stored.points, first.train.stored.points)
    assert len(calls) == 22, "what is damaged is made anew"


def test_a_cut_off_writing_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    (tmp_path / "file").write_text("some")

    def cut_off(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(_cache.np, "savez", cut_off)
    with pytest.raises(KeyboardInterrupt):
        _cache.cached("name", [tmp_path / "file"], (), lambda: {"a": np.zeros(2)})
    assert list((tmp_path / "clouds").iterdir()) == []
    (tmp_path / "clouds").rmdir()
    (tmp_path / "clouds").write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        _cache.cached("name", [tmp_path / "file"], (), lambda: pytest.fail("nothing is made for what cannot be kept"))


def test_training_moves_points_and_labels_together() -> None:
    settings = replace(ShapeNetPartTxt(root=NOWHERE).smoke_data(), **STILL)
    train = settings.load().train
    assert isinstance(train, Clouds)
    torch.manual_seed(0)
    (points, shape), labels = train[0]
    (other, _), _ = train[0]
    stored = {tuple(point): part for point, part in zip(train.stored.points[train.stored.span(0)].tolist(), train.stored.parts[:64].tolist(), strict=True)}
    assert [stored[tuple(point)] for point in points.tolist()] == labels.tolist()
    assert shape == 0
    assert len(set(map(tuple, points.tolist()))) == 64
    assert not torch.equal(points, other), "shuffled"
    varied = replace(settings, point_dropout=0.875).load().train
    counts = [len(set(map(tuple, varied[0][0][0].tolist()))) for _ in range(50)]
    assert min(counts) < 40
    assert max(counts) > 56
    (points, _), labels = varied[0]
    assert [stored[tuple(point)] for point in points.tolist()] == labels.tolist()


def test_training_stretches_and_moves_within_bounds() -> None:
    settings = replace(ModelNet40Txt(root=NOWHERE).smoke_data(), normals=True, point_dropout=0.0, scale=(0.5, 2.0), shift=0.3)
    train = settings.load().train
    plain = torch.from_numpy(train.stored.points[:64]).double()
    torch.manual_seed(0)
    seen = []
    for _ in range(200):
        points = train[0][0].double()
        # extents and middles do not depend on the order
        factors = (points.amax(0) - points.amin(0))[:3] / (plain.amax(0) - plain.amin(0))[:3]
        moved = points.mean(0)[:3] - factors * plain.mean(0)[:3]
        seen.append(torch.cat([factors, moved]))
        torch.testing.assert_close(points[:, 3:].norm(dim=-1), torch.ones(64, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    low, high = torch.stack(seen).amin(0), torch.stack(seen).amax(0)
    assert torch.stack(seen)[:, :3].std(1).median() > 0.1, "each axis by its own factor"
    assert (low[:3] > 0.5 - 1e-4).all()
    assert (high[:3] < 2 + 1e-4).all()
    assert (low[:3] < 0.6).all()
    assert (high[:3] > 1.9).all()
    assert (low[3:] > -0.3 - 1e-4).all()
    assert (high[3:] > 0.25).all()


@pytest.mark.parametrize(("turn", "axis"), [("z", "y"), ("z", "z"), ("so3", "y")])
def test_evaluation_is_turned_the_same_each_time(turn, axis) -> None:
    settings = replace(ModelNet40Txt(root=NOWHERE).smoke_data(), test_rotation=turn, up_axis=axis)
    plain, turned = replace(settings, test_rotation="none").load().test, settings.load().test
    for index in range(2):
        before, after = plain[index][0], turned[index][0]
        assert torch.equal(after, turned[index][0])
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
        assert not torch.allclose(after, before, atol=0.05)
        up = "xyz".index(axis)
        assert torch.allclose(after[:, up], before[:, up], atol=1e-6) == (turn == "z")
    ratio = [torch.linalg.lstsq(plain[n][0], turned[n][0]).solution for n in range(2)]
    assert not torch.allclose(*ratio, atol=1e-2), "each by its own rotation"
    assert settings.load().notes[1] == f"rotations in training/test: none/{ {'z': 'z', 'so3': 'SO3'}[turn] }"
    trained = replace(settings, train_rotation=turn, **STILL).load().train
    torch.manual_seed(0)
    one, other = trained[0][0], trained[0][0]
    assert not torch.allclose(one.sort(0).values, other.sort(0).values, atol=0.05)
    up = "xyz".index(axis)
    assert torch.allclose(one[:, up].sort().values, other[:, up].sort().values, atol=1e-5) == (turn == "z")


def test_points_are_drawn_out_of_all_of_a_file(tmp_path) -> None:
    settings = replace(copied(ShapeNetPartTxt, tmp_path), num_points=40, **STILL)
    bundle = settings.load()
    stored = {tuple(point) for point in bundle.test.stored.points[:64].tolist()}
    torch.manual_seed(0)
    fixed = [set(map(tuple, bundle.test[0][0][0].tolist())) for _ in range(2)]
    assert fixed[0] == fixed[1] <= stored
    anew = [set(map(tuple, bundle.train[0][0][0].tolist())) for _ in range(2)]
    assert anew[0] != anew[1]
    assert {len(points) for points in (*fixed, *anew)} == {40}
    many = replace(settings, num_points=150).load().test[0]
    assert many[0][0].shape == (150, 3)
    counts = np.unique(many[0][0].numpy(), axis=0, return_counts=True)[1]
    assert (len(counts), counts.min(), counts.max()) == (64, 2, 3), "each as often as another"


def _h5_edit(path: Path, **changes) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            old = file[name][...]
            del file[name]
            if value is not None:
                file[name] = value(old)


def _nan(data):
    data[1, 3, 2] = np.nan
    return data


def _line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number] = text
    path.write_text("\n".join(lines) + "\n")


def _json(path: Path, change) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


FLAT = "OFF3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n"
VAL = "train_test_split/shuffled_val_file_list.json"
BROKEN = [
    (ModelNet40H5, lambda root: _h5_edit(root / "ply_data_train1.h5", label=lambda label: label + 1), r"ply_data_train1\.h5 has labels from 1 to 2.*0 to 1"),
    (ModelNet40H5, lambda root: _h5_edit(root / "ply_data_test0.h5", data=_nan), r"ply_data_test0\.h5 has points that are not finite"),
    (ModelNet40H5, lambda root: _h5_edit(root / "ply_data_test0.h5", data=lambda data: data[:, :63]), r"ply_data_test0\.h5 has 63 points in a cloud, and 64"),
    (ModelNet40H5, lambda root: (root / "ply_data_train1.h5").unlink(), r"train_files\.txt names ply_data_train1\.h5, which is not"),
    (ModelNet40H5, lambda root: (root / "train_files.txt").unlink(), r"train_files\.txt is not there"),
    (ModelNet40H5, lambda root: (root / "shape_names.txt").write_text("\n"), r"shape_names\.txt is empty"),
    (
        ModelNet40Off,
        lambda root: (root / "box/train/box_0001.off").write_text("OFF3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n"),
        r"box_0001\.off is a mesh without area",
    ),
    (ModelNet40Off, lambda root: (root / "box/train/box_0001.off").write_text("OFF0 0 0\n"), r"box_0001\.off is a mesh without area"),
    (ModelNet40Off, lambda root: (root / "box/test/box_0009.off").write_text("OFF8\n"), r"box_0009\.off is no OFF file"),
    (ModelNet40Off, lambda root: shutil.rmtree(root / "box/test"), r"box/test is no folder"),
    (ModelNet40Off, lambda root: [path.unlink() for path in (root / "box/test").iterdir()], r"box/test has no \.off files"),
    (ModelNet40Off, lambda root: shutil.rmtree(root / "box"), "1 class folders"),
    (ModelNet40Txt, lambda root: _line(root / "modelnet40_test.txt", 0, "sofa_0001"), r"modelnet40_test\.txt lists sofa_0001, whose class 'sofa'"),
    (ModelNet40Txt, lambda root: _line(root / "modelnet40_test.txt", 0, "cube_0001"), "lists cube_0001 for training and for the test"),
    (ModelNet40Txt, lambda root: _line(root / "modelnet40_test.txt", 0, "cube_0099"), r"cube_0099\.txt cannot be read: No such file"),
    (ModelNet40Txt, lambda root: _line(root / "modelnet40_test.txt", 0, "cube_0010"), r"modelnet40_test\.txt has cube_0010 twice"),
    (ModelNet40Txt, lambda root: _line(root / "cube/cube_0001.txt", 5, "1,2,3,0,nan,1"), r"cube_0001\.txt has points that are not finite"),
    (ModelNet40Txt, lambda root: (root / "cube/cube_0001.txt").write_text("1,2,3,0,0,1\n" * 64), r"cube_0001\.txt has all its points in one place"),
    (ModelNet40Txt, lambda root: (root / "cube/cube_0001.txt").write_text("1,2,3,0,0,1\n" * 63), r"cube_0001\.txt has 63 points in a cloud, and 64"),
    (
        ShapeNetPartTxt,
        lambda root: _line(root / "02691156/train0.txt", 4, "0 0 0 0 0 1 47"),
        r"train0\.txt is of class airplane, .* 0 to 3.*part 47",
    ),
    (ShapeNetPartTxt, lambda root: _line(root / "02691156/train0.txt", 4, "0 0 0 0 0 1 1.5"), r"train0\.txt .*part 1\.5"),
    (ShapeNetPartTxt, lambda root: _line(root / "02691156/test0.txt", 4, "0 0 0 0 0 1"), r"test0\.txt does not hold a point a line"),
    (ShapeNetPartTxt, lambda root: (root / "04379243/val0.txt").write_text("0 0 0 0 0 1 47\n" * 20), r"val0\.txt has 20 points in a cloud, and 32"),
    (ShapeNetPartTxt, lambda root: _line(root / "synsetoffset2category.txt", 0, "Ship\t02691156"), "has the line 'Ship"),
    (
        ShapeNetPartTxt,
        lambda root: _json(root / VAL, lambda names: ["shape_data/1/a"]),
        "shape_data/1/a, whose class",
    ),
    (ShapeNetPartTxt, lambda root: _json(root / VAL, lambda names: names[:1] * 2), "val0 twice"),
    (ShapeNetPartTxt, lambda root: _json(root / VAL, lambda names: {}), "must be a list of shapes"),
    (ShapeNetPartTxt, lambda root: (root / VAL).unlink(), r"shuffled_val_file_list\.json"),
    (ShapeNetPartTxt, lambda root: (root / VAL).write_text("[]"), r"shuffled_val_file_list\.json lists no shapes"),
    (ShapeNetPartTxt, lambda root: (root / "synsetoffset2category.txt").unlink(), r"synsetoffset2category\.txt is not there"),
    (ShapeNetPartH5, lambda root: (root / "val_hdf5_file_list.txt").unlink(), r"val_hdf5_file_list\.txt is not there"),
    (ShapeNetPartH5, lambda root: (root / "ply_data_val0.h5").unlink(), r"val_hdf5_file_list\.txt names ply_data_val0\.h5, which is not"),
    (ShapeNetPartH5, lambda root: _h5_edit(root / "ply_data_train0.h5", pid=lambda pid: pid + 1), r"cloud 0 of .*train0\.h5 is of class airplane.*part 4"),
    (ShapeNetPartH5, lambda root: _h5_edit(root / "ply_data_val0.h5", pid=None), r"ply_data_val0\.h5 has no pid"),
    (ShapeNetPartH5, lambda root: _h5_edit(root / "ply_data_val0.h5", pid=lambda pid: pid[:, :5]), r"val0\.h5 has pid \(6, 5\)"),
    (ShapeNetPartH5, lambda root: _h5_edit(root / "ply_data_test0.h5", label=lambda label: label + 2), r"test0\.h5 has labels from 2 to 3"),
]


@pytest.mark.parametrize(("cls", "spoil", "says"), BROKEN, ids=[f"{cls.__name__}-{n}" for n, (cls, _, _) in enumerate(BROKEN)])
def test_broken_files_are_refused_by_name_before_training(cls, spoil, says, tmp_path) -> None:
    if cls in (ModelNet40H5, ShapeNetPartH5):
        pytest.importorskip("h5py", reason="needs h5py: pip install 'foveal[points]'")
    settings = copied(cls, tmp_path)
    spoil(settings.root)
    with pytest.raises(InputError, match=says):
        settings.load()


@h5
def test_clouds_without_normals_are_read_unless_normals_are_wanted(tmp_path) -> None:
    settings = copied(ModelNet40H5, tmp_path)
    whole = settings.load()
    assert replace(settings, normals=True).load().test[0][0].shape == (64, 6)
    for path in settings.root.glob("*.h5"):
        _h5_edit(path, normal=None)
    without = settings.load()
    assert np.array_equal(without.train.stored.points, whole.train.stored.points)
    with pytest.raises(InputError, match=r"ply_data_train0\.h5 has no normal"):
        replace(settings, normals=True).load()


def test_a_set_that_is_not_there_says_what_was_expected() -> None:
    for cls in (ModelNet40H5, ModelNet40Off, ModelNet40Txt, ShapeNetPartH5, ShapeNetPartTxt):
        with pytest.raises(InputError, match=r"nowhere is no folder; expected .* as it unpacks|nowhere is no folder; expected shapenetcore"):
            cls(root=NOWHERE).load()


@pytest.mark.parametrize(
    ("cls", "settings", "says"),
    [
        (ModelNet40H5, {"num_points": 1}, "num_points"),
        (ModelNet40H5, {"scale": (1.5, 0.5)}, "least and the largest"),
        (ModelNet40Off, {"point_dropout": 1.0}, "point_dropout"),
        (ModelNet40Txt, {"shift": -1.0}, "shift"),
        (ShapeNetPartH5, {"normals": True}, "has no normals"),
    ],
)
def test_settings_that_mean_nothing_are_refused(cls, settings, says) -> None:
    with pytest.raises(InputError, match=says):
        cls(root=NOWHERE, **settings)


def test_recipes_are_the_published_trainings() -> None:
    first = get_recipe("pct-modelnet40")
    assert (first.steps, first.batch_size, first.data.num_points, first.data.point_dropout) == (76_750, 32, 1024, 0.875)
    assert (first.optim.lr, first.optim.min_lr, first.optim.weight_decay, first.optim.decay_all) == (1e-2, 1e-4, 5e-4, True)
    assert first.data.scale == (2 / 3, 3 / 2)
    # ε of the truth goes to the 39 others: torch's ε/K to each of 40 must be that ε/39
    assert first.task.label_smoothing / 40 == pytest.approx(0.2 / 39)
    second = get_recipe("pct-shapenet-part")
    assert (second.data.train_on, second.data.num_points, second.data.point_dropout, second.task.restrict) == ("trainval", 2048, 0.0, False)
    networks = [
        first.model.build(in_channels=3, num_classes=40, num_points=1024),
        second.model.build(in_channels=3, num_classes=50, num_shapes=16),
    ]
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [2_810_856, 2_446_130]
