"""Stereo sets: made pairs against a slow ray by ray oracle, miniature files in the true format of each benchmark, and the real scenes."""

import itertools
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import KITTIStereo, MiddleburyStereo, SceneFlow, ShiftStereo, read_scene, shifted_pair
from foveal.lab.data._fetch import find
from foveal.lab.data.stereo._bundle import prepare_pair, shrink
from foveal.lab.data.stereo.scenes import SCENES, RealScenes
from foveal.lab.data.stereo.shifts import Layers, _blob, _piece, draw_layers
from foveal.lab.training.order import Seeded

RNG = np.random.default_rng(0)
NEEDS_PHOTOS = pytest.mark.skipif(find_spec("skimage") is None, reason="photographs lie in scikit-image")


# -- made pairs -----------------------------------------------------------------------------------------------------------------------------------


def some_layers() -> Layers:
    photos = [RNG.integers(0, 255, (30, 41, 3), dtype=np.uint8), RNG.integers(0, 255, (9, 7, 3), dtype=np.uint8)]
    return draw_layers(photos, 12, 20, 8, 5, np.random.default_rng(3))


def test_made_pairs_equal_a_loop_over_pixels() -> None:
    layers, width = some_layers(), 20
    assert len(layers.planes) > 2
    got = shifted_pair(layers, width)
    reach = layers.shapes.shape[-1]

    def depth(layer: int, x: float, y: int) -> float | None:
        column = round(x)
        if layer and not (0 <= column < reach and layers.shapes[layer, y, column]):
            return None
        a, b, c = (float(value) for value in layers.planes[layer])
        return a + b * x + c * y

    def source(layer: int, x_right: float, y: int) -> float:
        a, b, c = (float(value) for value in layers.planes[layer])
        return (x_right + a + c * y) / (1 - b)

    def front(places: list[float], y: int) -> tuple[int, float]:
        seen = [(depth(layer, x, y), layer) for layer, x in enumerate(places)]
        best = max((d, -layer) for d, layer in seen if d is not None)
        return -best[1], best[0]

    count = len(layers.planes)
    for y, x in itertools.product(range(12), range(width)):
        layer, d = front([float(x)] * count, y)
        assert got.disparity[y, x] == pytest.approx(d, abs=1e-5)
        assert np.array_equal(got.left[y, x], layers.textures[layer, y, x])
        places = [source(n, x, y) for n in range(count)]
        layer, _ = front(places, y)
        low = min(int(places[layer]), reach - 2)
        mixed = (1 - (places[layer] - low)) * layers.textures[layer, y, low] + (places[layer] - low) * layers.textures[layer, y, low + 1]
        assert got.right[y, x] == pytest.approx(mixed, abs=1e-5)
        _, there = front([source(n, x - d, y) for n in range(count)], y)
        assert got.occluded[y, x] == (x - d < 0 or there > d + 1e-4)
    assert 0 < got.occluded.mean() < 0.6


@pytest.mark.parametrize("seed", range(5, 13))
def test_a_shape_is_a_circle_whose_radius_swings(seed: int) -> None:
    got = _blob(30, 40, 50, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(0, 30), rng.uniform(0, 40)
    radius, stretch = rng.uniform(0.1, 0.4) * 30, rng.uniform(0.5, 2)
    swings = [(rng.uniform(-0.35, 0.35) / k, rng.uniform(0, 2 * np.pi)) for k in range(1, 6)]
    for row, column in itertools.product(range(30), range(50)):
        dy, dx = row - y, (column - x) / stretch
        angle = np.arctan2(dy, dx)
        reach = radius * (1 + sum(amplitude * np.cos(k * angle + phase) for k, (amplitude, phase) in enumerate(swings, 1)))
        assert got[row, column] == (np.hypot(dy, dx) < reach)
    assert 0 < got.mean() < 1


@pytest.mark.parametrize("seed", range(8))
def test_a_piece_is_a_part_of_its_photograph(seed: int) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    got = np.empty((20, 30, 3), np.float32)
    _piece(photo, got, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    step, top, left = rng.choice([0.5, 1.0, 1.0, 2.0]), int(rng.integers(9)), int(rng.integers(13))
    gains, more = rng.uniform(0.6, 1.2, 3), rng.uniform(-0.1, 0.1)
    # mirrored at every border
    endless = np.pad(photo, ((0, 60), (0, 90), (0, 0)), mode="symmetric")
    for row, column in itertools.product(range(20), range(30)):
        pixel = endless[top + int(row * step), left + int(column * step)]
        assert got[row, column] == pytest.approx(np.clip(pixel / 255 * gains + more, 0, 1), abs=1e-6)


@NEEDS_PHOTOS
def test_a_sample_is_its_pair_with_noise_standardized() -> None:
    """Each step written out, bit for bit."""
    bundle = ShiftStereo(crop=(32, 48), noise=0.02, train_pairs=2, val_pairs=6).load()
    for n in range(6):
        pair, rng = bundle.val.pair(n)
        views = []
        for view in (pair.left, pair.right):
            lit = view * np.float32(rng.uniform(0.95, 1.05)) + np.float32(0.02) * rng.standard_normal(view.shape, dtype=np.float32)
            standard = (np.clip(lit, 0, 1) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
            views.append(torch.from_numpy(standard).permute(2, 0, 1))
        images, (truth, _) = bundle.val[n]
        assert torch.equal(images, torch.cat(views))
        assert torch.equal(truth, torch.from_numpy(pair.disparity))


def test_disparities_keep_their_limits() -> None:
    for seed in range(20):
        layers = draw_layers([RNG.integers(0, 255, (30, 41, 3), dtype=np.uint8)], 12, 20, 16, 5, np.random.default_rng(seed))
        disparity = shifted_pair(layers, 20).disparity
        assert disparity.min() >= 0
        assert disparity.max() < 16


@NEEDS_PHOTOS
def test_what_both_eyes_see_is_the_same() -> None:
    """The right image, read where the disparity says, is the left one; where it is occluded it is not."""
    bundle = ShiftStereo(crop=(48, 80), noise=0.0, train_pairs=2, val_pairs=3).load()
    for n in range(3):
        pair, _ = bundle.val.pair(n)
        assert warp_error(pair.left, pair.right, pair.disparity, ~pair.occluded) < 0.5 * warp_error(pair.left, pair.right, 0 * pair.disparity, ~pair.occluded)


def warp_error(left: np.ndarray, right: np.ndarray, disparity: np.ndarray, where: np.ndarray) -> float:
    rows, columns = np.mgrid[: left.shape[0], : left.shape[1]]
    place = np.clip(np.rint(columns - np.nan_to_num(disparity)).astype(int), 0, left.shape[1] - 1)
    return float(np.abs(left - right[rows, place])[where].mean())


@NEEDS_PHOTOS
def test_training_pairs_are_drawn_anew_and_others_are_not() -> None:
    bundle = ShiftStereo(crop=(32, 48), train_pairs=3, val_pairs=2).load()
    images, (truth, scene) = Seeded(bundle.train, 0)[0, 1]
    assert images.shape == (6, 32, 48)
    assert (truth.shape, truth.dtype, scene) == ((32, 48), torch.float32, -1)
    assert truth.isfinite().all()
    assert torch.equal(images, Seeded(bundle.train, 0)[0, 1][0])
    assert not torch.equal(images, Seeded(bundle.train, 0)[1, 1][0])
    assert torch.equal(bundle.val[1][0], bundle.val[1][0])
    with pytest.raises(IndexError):
        bundle.val[2]


@pytest.mark.parametrize("options", [{"crop": (4, 100)}, {"scenes": ()}, {"scenes": ("motorcycle", "motorcycle")}, {"noise": -1.0}, {"val_pairs": 0}])
def test_settings_that_make_no_pair_are_refused(options) -> None:
    with pytest.raises(InputError):
        ShiftStereo(**options)


# -- real scenes ----------------------------------------------------------------------------------------------------------------------------------


@NEEDS_PHOTOS
def test_the_motorcycle_is_what_its_disparity_says() -> None:
    scene = read_scene("motorcycle")
    assert scene.left.shape == scene.right.shape == (500, 741, 3)
    known = np.isfinite(scene.disparity)
    assert round(known.mean(), 3) == 0.927
    left, right = scene.left / 255, scene.right / 255
    assert warp_error(left, right, scene.disparity, known) < 0.25 * warp_error(left, right, 0 * scene.disparity, known)
    images, (truth, number) = RealScenes(("motorcycle",), 32)[0]
    assert images.shape == (6, 250, 370)
    assert number == 0
    assert 3 < np.nanmin(truth) < np.nanmax(truth) < 32
    assert RealScenes(("motorcycle",), 64)[0][0].shape == (6, 500, 741)


@pytest.mark.data
def test_the_aloe_is_what_its_disparity_says() -> None:
    try:
        find("opencv-doc")
    except InputError as error:
        pytest.skip(str(error))
    scene = read_scene("aloe")
    assert scene.left.shape == scene.right.shape == (1110, 1282, 3)
    known = np.isfinite(scene.disparity)
    assert round(known.mean(), 3) == 0.965
    left, right = scene.left / 255, scene.right / 255
    assert warp_error(left, right, scene.disparity, known) < 0.3 * warp_error(left, right, 0 * scene.disparity, known)


def test_an_aloe_of_the_same_kind_is_read(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "opencv-doc" / "usr/share/doc/opencv-doc/examples/data"
    folder.mkdir(parents=True)
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    photo(folder / "aloeL.jpg", 21, 42)
    photo(folder / "aloeR.jpg", 21, 42)
    stored = RNG.integers(0, 211, (21, 42), dtype=np.uint8)
    stored[:7, :7] = 0
    Image.fromarray(stored).save(folder / "aloeGT.png")
    read_scene.cache_clear()
    images, (truth, number) = RealScenes(("aloe",), 32)[0]
    assert (images.shape, truth.shape, number) == ((6, 3, 6), (3, 6), 0)
    assert truth[0, 0].isnan()
    assert truth[1, 2].item() == pytest.approx(stored[10, 17] / 7)
    read_scene.cache_clear()
    (folder / "aloeR.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cannot read .*aloeR\.jpg"):
        read_scene("aloe")
    shutil.rmtree(tmp_path / "opencv-doc")
    if not Path("/usr/share/doc/opencv-doc/examples/data").is_dir():
        with pytest.raises(InputError, match=r"remedy: foveal\.lab\.data\.fetch\('opencv-doc'\)"):
            read_scene("aloe")
    with pytest.raises(InputError, match="did you mean motorcycle"):
        read_scene("motorcycles")
    assert set(SCENES) == {"motorcycle", "aloe"}


def test_shrinking_takes_means_of_images_and_middles_of_disparities() -> None:
    left, right = (RNG.integers(0, 255, (7, 10, 3), dtype=np.uint8) for _ in range(2))
    disparity = RNG.uniform(0, 30, (7, 10))
    small_left, small_right, truth = shrink(left, right, disparity, 3)
    assert small_left.shape == small_right.shape == (2, 3, 3)
    assert small_left[1, 2] == pytest.approx(left[3:6, 6:9].reshape(9, 3).mean(0) / 255, abs=1e-6)
    assert truth[1, 2] == disparity[4, 7] / 3
    assert shrink(left, right, disparity, 1)[0] is left
    with pytest.raises(InputError, match="cannot be made 8 times smaller"):
        shrink(left, right, disparity, 8)


def test_pairs_of_images_are_prepared_and_single_ones_refused() -> None:
    images = [Image.new("RGB", (9, 5), color) for color in ("red", "blue")]
    pair = prepare_pair(images)
    assert pair.shape == (6, 5, 9)
    assert pair[0].mean() > pair[3].mean()
    with pytest.raises(InputError, match="stereo needs two images"):
        prepare_pair(images[0])
    with pytest.raises(InputError, match="expected a rectified pair"):
        prepare_pair([images[0], Image.new("RGB", (9, 6))])


# -- files of the benchmarks ----------------------------------------------------------------------------------------------------------------------


def photo(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def pfm(path: Path, values: np.ndarray, *, big: bool = False) -> None:
    """Gray PFM: rows from below, a negative scale for little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n{1.0 if big else -1.0}\n".encode()
    path.write_bytes(head + values[::-1].astype(">f4" if big else "<f4").tobytes())


def png16(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((values * 256).astype(np.uint16)).save(path)


def disparities(height: int, width: int) -> np.ndarray:
    return RNG.integers(1, 150 * 8, (height, width)) / 8


def scene_flow(root: Path) -> tuple[SceneFlow, dict[str, np.ndarray]]:
    base = root / "SceneFlow"
    truths = {}
    for number, part in enumerate(("TRAIN/A/0000", "TRAIN/A/0001", "TEST/A/0000")):
        truth = disparities(17, 31)
        truth[0, :3] = 192, 191.5, 300
        for side in ("left", "right"):
            photo(base / f"FlyingThings3D/frames_cleanpass/{part}/{side}/0006.png", 17, 31)
            # the archive has disparities of both signs, as its tools write them
            pfm(base / f"FlyingThings3D/disparity/{part}/{side}/0006.pfm", -truth if number else truth, big=number == 1)
        truths[part] = truth
    for side in ("left", "right"):
        photo(base / f"Monkaa/frames_cleanpass/a_rain_of_stones_x2/{side}/0000.png", 15, 20)
        pfm(base / f"Monkaa/disparity/a_rain_of_stones_x2/{side}/0000.pfm", disparities(15, 20))
    test = truths["TEST/A/0000"].copy()
    test[test >= 192] = np.nan
    return SceneFlow(root=root, variants=("FlyingThings3D", "Monkaa"), val_pairs=1, crop=(16, 24)), {"test": test}


def kitti_2015(root: Path) -> tuple[KITTIStereo, dict[str, np.ndarray]]:
    base = root / "Kitti2015" / "training"
    truths = {}
    for number in range(3):
        truth = np.where(RNG.random((15, 37)) < 0.7, 0, disparities(15, 37))
        for folder in ("image_2", "image_3"):
            for frame in (10, 11):
                photo(base / folder / f"{number:06}_{frame}.png", 15, 37)
        for folder in ("disp_occ_0", "disp_occ_1"):
            png16(base / folder / f"{number:06}_10.png", truth)
        truths[f"{number:06}_10"] = np.where(truth == 0, np.nan, truth)
    return KITTIStereo(root=root, val_pairs=1, crop=(16, 24)), truths


def kitti_2012(root: Path) -> tuple[KITTIStereo, dict[str, np.ndarray]]:
    base = root / "Kitti2012" / "training"
    truths = {}
    for number in range(2):
        truth = np.where(RNG.random((14, 33)) < 0.7, 0, disparities(14, 33))
        for folder in ("colored_0", "colored_1"):
            for frame in (10, 11):
                photo(base / folder / f"{number:06}_{frame}.png", 14, 33)
        png16(base / "disp_noc" / f"{number:06}_10.png", truth)
        truths[f"{number:06}_10"] = np.where(truth == 0, np.nan, truth)
    return KITTIStereo(root=root, year=2012, val_pairs=1, crop=(16, 24)), truths


def middlebury(root: Path) -> tuple[MiddleburyStereo, dict[str, np.ndarray]]:
    truths = {}
    for split, names in (("train", ("Adirondack", "Piano")), ("additional", ("Backpack", "Couch"))):
        for name in names:
            folder = root / "Middlebury2014" / split / f"{name}-perfect"
            truth = disparities(19, 26)
            truth[RNG.random(truth.shape) < 0.2] = np.inf
            for n in (0, 1):
                photo(folder / f"im{n}.png", 19, 26)
                pfm(folder / f"disp{n}.pfm", truth)
            truths[name] = np.where(np.isfinite(truth), truth, np.nan)
    return MiddleburyStereo(root=root, shrink=1, val_pairs=1, crop=(16, 24)), truths


SETS = [scene_flow, kitti_2015, kitti_2012, middlebury]


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_files_of_the_true_format_are_read(make: Callable, tmp_path) -> None:
    settings, truths = make(tmp_path)
    bundle = settings.load()
    for n in range(len(bundle.test)):
        images, (truth, scene) = bundle.test[n]
        path = bundle.test.pairs[n].left
        if make is middlebury:
            want = truths[bundle.scenes[n]]
            assert scene == n
        else:
            want = truths.get(path.stem, truths.get("test"))
            assert (scene, bundle.scenes) == (-1, ())
        assert images.shape == (6, *want.shape)
        assert np.array_equal(truth.numpy(), want.astype(np.float32), equal_nan=True)
        with Image.open(path) as stored:
            # the first channel of the left image, standardized
            assert images[0].numpy() == pytest.approx((np.asarray(stored)[..., 0] / 255 - 0.485) / 0.229, abs=1e-5)
    # crops of one size, whatever the size of the image; padding is of unknown disparity, and there the image is the mean
    for n in range(len(bundle.train)):
        images, (truth, _) = Seeded(bundle.train, 0)[n, n]
        assert (images.shape, truth.shape) == ((6, 16, 24), (16, 24))
        padding = (images == 0).all(0)
        assert truth[padding].isnan().all()
    names = {split: {str(pair.left) for pair in getattr(bundle, split).pairs} for split in ("train", "val", "test")}
    assert not names["train"] & (names["val"] | names["test"])


def test_truth_belongs_to_its_own_frame(tmp_path) -> None:
    """KITTI 2015 has two frames of a scene and the truth of the first."""
    settings, _ = kitti_2015(tmp_path)
    bundle = settings.load()
    pairs = bundle.train.pairs + bundle.val.pairs
    assert len(pairs) == 3
    for pair in pairs:
        assert pair.left.name == pair.right.name == pair.disparity.name
        assert (pair.left.parent.name, pair.right.parent.name, pair.disparity.parent.name) == ("image_2", "image_3", "disp_occ_0")


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_damaged_files_are_named(make: Callable, tmp_path) -> None:
    settings, _ = make(tmp_path)
    bundle = settings.load()
    pair = bundle.test.pairs[0]
    for path in (pair.disparity, pair.right):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=rf"cannot read .*{path.parent.name}/{path.name}"):
            bundle.test[0]
        path.write_bytes(whole)
    photo(pair.right, 11, 13)
    with pytest.raises(InputError, match=rf"{pair.right.name} is 13×11, but .*{pair.left.name} is "):
        bundle.test[0]


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_missing_files_are_explained(make: Callable, tmp_path) -> None:
    settings, _ = make(tmp_path)
    pair = settings.load().train.pairs[0]
    pair.right.unlink()
    with pytest.raises(InputError, match=r"does not hold|names differ"):
        settings.load()
    for entry in tmp_path.iterdir():
        shutil.rmtree(entry)
    with pytest.raises(InputError, match="does not hold"):
        settings.load()


def test_truth_of_eight_bits_is_refused(tmp_path) -> None:
    settings, _ = kitti_2015(tmp_path)
    bundle = settings.load()
    path = bundle.test.pairs[0].disparity
    Image.fromarray(RNG.integers(0, 255, (15, 37), dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match="expected a gray image of 16 bits, got the mode L"):
        bundle.test[0]


def test_settings_that_leave_nothing_are_refused(tmp_path) -> None:
    scene_flow(tmp_path)
    with pytest.raises(InputError, match="cannot be kept for validation"):
        SceneFlow(root=tmp_path, variants=("FlyingThings3D",), val_pairs=2).load()
    with pytest.raises(InputError, match="FlyingThings3D, which has the test pairs"):
        SceneFlow(root=tmp_path, variants=("Monkaa",)).load()
    with pytest.raises(InputError, match="at least 1"):
        SceneFlow(root=tmp_path, crop=(0, 8))
