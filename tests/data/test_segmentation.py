"""Segmentation sets: miniature files in the true format of each, what is wrong in them named, and the real images that wheels carry."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from foveal import InputError
from foveal.lab.data import ADE20K, IGNORE, ISPRS, BrainSlabs, Cityscapes, Data, FlagSwap, MaskFolder, Nuclei, PascalVOC, read_brain, read_nuclei
from foveal.lab.tasks import Segmentation
from foveal.lab.training import Optim, Recipe, fit
from foveal.lab.training.order import Seeded
from foveal.models import SmallFCN

RNG = np.random.default_rng(0)
COLORS = {"road": (255, 255, 255), "building": (0, 0, 255), "low": (0, 255, 255), "tree": (0, 255, 0), "car": (255, 255, 0), "clutter": (255, 0, 0)}


def photo(path: Path, height: int, width: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def gray(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def palette(path: Path, values: np.ndarray) -> None:
    """As VOC stores masks: indices, and colors that mean nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), mode=None).convert("P")
    image.putdata(values.flatten().tolist())
    image.putpalette(RNG.integers(0, 255, 768).astype(np.uint8).tolist())
    image.save(path)


def voc(root: Path) -> tuple[Data, np.ndarray, np.ndarray]:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    lists = {"trainaug": "/JPEGImages/2007_a.jpg /SegmentationClassAug/2007_a.png\n", "train": "2007_a\n", "val": "2007_b\n"}
    for name, text in lists.items():
        (root / f"ImageSets/Segmentation/{name}.txt").write_text(text)
    stored = np.zeros((21, 33), np.uint8)
    stored[3:9, 4:12], stored[3, 4:12] = 15, 255
    for stem, folder in (("2007_a", "SegmentationClassAug"), ("2007_a", "SegmentationClass"), ("2007_b", "SegmentationClass")):
        photo(root / f"JPEGImages/{stem}.jpg", 21, 33)
        palette(root / folder / f"{stem}.png", stored)
    return PascalVOC(root=root, img_size=16), stored, stored.astype(np.int64)


def ade(root: Path) -> tuple[Data, np.ndarray, np.ndarray]:
    stored = RNG.choice(np.array([0, 1, 42, 150], np.uint8), (17, 25))
    for part in ("training", "validation"):
        photo(root / f"images/{part}/ADE_{part}_1.jpg", 17, 25)
        gray(root / f"annotations/{part}/ADE_{part}_1.png", stored)
    heads = "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    (root / "objectInfo150.txt").write_text(heads + "".join(f"{n}\t0.1\t1\t1\t0\tthing {n}, object {n}\n" for n in range(1, 151)))
    return ADE20K(root=root, img_size=16), stored, np.where(stored == 0, IGNORE, stored.astype(np.int64) - 1)


def cityscapes(root: Path) -> tuple[Data, np.ndarray, np.ndarray]:
    ids = {7: 0, 8: 1, 11: 2, 33: 18, 24: 11, 0: IGNORE, 3: IGNORE, 29: IGNORE}
    stored = RNG.choice(np.array(list(ids), np.uint8), (16, 32))
    for part in ("train", "val"):
        photo(root / f"leftImg8bit/{part}/aachen/aachen_000000_000019_leftImg8bit.png", 16, 32)
        gray(root / f"gtFine/{part}/aachen/aachen_000000_000019_gtFine_labelIds.png", stored)
        gray(root / f"gtFine/{part}/aachen/aachen_000000_000019_gtFine_instanceIds.png", stored)
    return Cityscapes(root=root, img_size=16), stored, np.vectorize(ids.get)(stored)


def isprs(root: Path) -> tuple[Data, np.ndarray, np.ndarray]:
    want = RNG.integers(0, 6, (24, 20))
    want[:2] = IGNORE
    stored = np.array([*COLORS.values(), *[(0, 0, 0)] * 250], np.uint8)[want]
    for tile in (1, 30, 38):
        photo(root / f"images/top_mosaic_09cm_area{tile}.tif", 24, 20)
        gray(root / f"masks/top_mosaic_09cm_area{tile}_noBoundary.tif", stored)
    return ISPRS(root=root, img_size=16), stored, want


def folder(root: Path) -> tuple[Data, np.ndarray, np.ndarray]:
    stored = RNG.choice(np.array([0, 1, 2, 65535], np.uint16), (19, 23))
    for name in ("one", "two.b", "three"):
        photo(root / f"images/{name}.png", 19, 23)
        gray(root / f"masks/{name}.png", stored)
    return MaskFolder(root=root, img_size=16, classes=("a", "b", "c"), ignore=(65535,)), stored, np.where(stored == 65535, IGNORE, stored.astype(np.int64))


SETS = [voc, ade, cityscapes, isprs, folder]


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_masks_of_the_true_format_are_read(make: Callable[[Path], tuple[Data, np.ndarray, np.ndarray]], tmp_path) -> None:
    settings, _, want = make(tmp_path)
    bundle = settings.load()
    image, mask = bundle.val[0]
    assert image.shape == (3, *want.shape)
    assert type(image) is type(mask) is torch.Tensor
    assert torch.equal(mask, torch.from_numpy(want))
    assert all(0 <= label < len(bundle.classes) or label == IGNORE for label in mask.unique().tolist())
    # a training crop is a square; what was padded is of no class, and there the image is the mean
    for n in range(4):
        image, mask = Seeded(bundle.train, n)[0, 0]
        assert image.shape == (3, 16, 16)
        assert mask.shape == (16, 16)
        assert set(mask.unique().tolist()) <= {*np.unique(want).tolist(), IGNORE}
    assert bundle.prepare(Image.new("L", (9, 5))).shape == (3, 5, 9)


def test_names_and_counts_of_classes(tmp_path) -> None:
    assert len(voc(tmp_path / "voc")[0].load().classes) == 21
    classes = ade(tmp_path / "ade")[0].load().classes
    assert (len(classes), classes[0], classes[149]) == (150, "thing 1", "thing 150")
    assert len(cityscapes(tmp_path / "city")[0].load().classes) == 19
    bundle = isprs(tmp_path / "isprs")[0].load()
    assert (len(bundle.classes), bundle.unscored) == (6, ("clutter",))
    assert [len(split.pairs) for split in (bundle.train, bundle.val, bundle.test)] == [1, 1, 1]
    assert "area38" in str(bundle.test.pairs[0][0])


def test_images_and_masks_move_together(tmp_path) -> None:
    """The mask is where the image is bright, before and after scaling, cropping and mirroring."""
    bright = np.zeros((40, 40), bool)
    bright[8:30, 5:17] = True
    for name in ("one", "two"):
        gray(tmp_path / f"images/{name}.png", np.where(bright, 255, 0).astype(np.uint8))
        gray(tmp_path / f"masks/{name}.png", bright.astype(np.uint8))
    bundle = MaskFolder(root=tmp_path, img_size=32, classes=("dark", "bright")).load()
    agree, known = 0, 0
    for n in range(20):
        image, mask = Seeded(bundle.train, n)[0, 0]
        agree += ((image[0] > 0) == (mask == 1))[mask != IGNORE].sum().item()
        known += (mask != IGNORE).sum().item()
    assert agree / known > 0.97, "but for blurred borders"
    assert len({tuple(Seeded(bundle.train, 0)[epoch, 0][1].flatten().tolist()) for epoch in range(5)}) > 1


def test_broken_images_are_left_out_and_named(tmp_path) -> None:
    settings, _, _ = folder(tmp_path)
    photo(tmp_path / "images/half.png", 19, 23)
    gray(tmp_path / "masks/half.png", np.zeros((19, 23), np.uint8))
    whole = (tmp_path / "images/half.png").read_bytes()
    (tmp_path / "images/half.png").write_bytes(whole[: len(whole) // 2])
    bundle = settings.load()
    assert len(bundle.train) + len(bundle.val) == 3
    assert any("1 unreadable pairs were left out" in note and "half.png" in note for note in bundle.notes)


def test_numbers_of_a_folder_are_named_where_they_mean_nothing(tmp_path) -> None:
    folder(tmp_path)
    with pytest.raises(InputError, match=r"masks/.*\.png holds the value 65535; expected 0 to 2 for a, b, c, or 255"):
        MaskFolder(root=tmp_path, classes=("a", "b", "c")).load()


BAD = [
    (lambda root: (root / "masks/one.png").unlink(), r"images/one\.png has no mask"),
    (lambda root: gray(root / "masks/one.png", np.zeros((5, 6), np.uint8)), r"masks/one\.png is 6×5, but .* is 23×19"),
    (lambda root: gray(root / "masks/one.png", np.zeros((19, 23, 3), np.uint8)), r"masks/one\.png is a mask of shape \(19, 23, 3\)"),
    (lambda root: (root / "masks").rename(root / "labels"), r"masks is no folder; expected"),
    (lambda root: (root / "images").rename(root / "train"), r"has train/ but no val/"),
]


@pytest.mark.parametrize(("damage", "says"), BAD, ids=[says for _, says in BAD])
def test_a_folder_that_does_not_fit_is_refused(damage, says, tmp_path) -> None:
    settings, _, _ = folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=says):
        settings.load()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (lambda root: MaskFolder(root=root), "give classes"),
        (lambda root: MaskFolder(root=root, classes=("a", "b"), unscored=("c",)), "unscored names c"),
        (lambda root: PascalVOC(root=root), "PASCAL VOC 2012 as it unpacks"),
        (lambda root: ADE20K(root=root), "ADEChallengeData2016 as it unpacks"),
        (lambda root: Cityscapes(root=root), "Cityscapes as it unpacks"),
        (lambda root: ISPRS(root=root), "tiles named as the ISPRS names them"),
    ],
)
def test_a_set_that_is_not_there_says_what_it_looks_like(settings, says, tmp_path) -> None:
    with pytest.raises(InputError, match=says):
        settings(tmp_path).load()


@pytest.mark.parametrize("text", ["", "this is a sentence\n", "[" * 100_000])
def test_a_list_of_nothing_that_is_there_is_named(tmp_path, text) -> None:
    settings, _, _ = voc(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text(text)
    with pytest.raises(InputError, match=r"val\.txt names .*; expected the name of an image a line"):
        settings.load()


def test_a_color_that_means_nothing_is_named(tmp_path) -> None:
    settings, stored, _ = isprs(tmp_path)
    stored[5, 5] = (1, 2, 3)
    gray(tmp_path / "masks/top_mosaic_09cm_area1_noBoundary.tif", stored)
    with pytest.raises(InputError, match=r"area1_noBoundary\.tif holds the color \(1, 2, 3\)"):
        settings.load()


def test_without_the_augmented_list_the_remedy_is_named(tmp_path) -> None:
    settings, _, _ = voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(InputError, match=r"trainaug\.txt does not exist.*--data\.train-list train"):
        settings.load()
    assert PascalVOC(root=tmp_path, train_list="train").load().train.pairs[0][1].parent.name == "SegmentationClass"


def test_training_from_files_with_images_of_unlike_sizes(tmp_path) -> None:
    """From files to metrics: crops in training, each image in its own size in evaluation."""
    for n in range(4):
        photo(tmp_path / f"data/images/{n}.png", 20 + n, 30)
        gray(tmp_path / f"data/masks/{n}.png", RNG.integers(0, 2, (20 + n, 30)).astype(np.uint8))
    data = MaskFolder(root=tmp_path / "data", img_size=16, classes=("a", "b"), val_fraction=0.5)
    recipe = Recipe(
        data=data, model=SmallFCN(width=4), task=Segmentation(window=16), optim=Optim(lr=1e-3), steps=2, batch_size=2, eval_every=1, trackers=(), workers=0
    )
    metrics = fit(recipe, tmp_path / "run", quiet=True)
    assert 0 <= metrics["miou"] <= 1


def needs(*packages: str) -> pytest.MarkDecorator:
    """The packages are looked for, not imported: for their files they need not run."""
    return pytest.mark.skipif(any(find_spec(name) is None for name in packages), reason=f"the data lies in {', '.join(packages)}")


# -- what wheels carry ----------------------------------------------------------------------------------------------------------------------------


@needs("stardist")
def test_nuclei_are_125_and_their_parts_do_not_touch() -> None:
    image, instances = read_nuclei()
    assert image.shape == instances.shape == (512, 512)
    assert len(np.unique(instances)) == 125 + 1
    bundle = Nuclei(crops=8).load()
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (8, 4, 4)
    lower_right = torch.cat([torch.cat([bundle.test[2 * row + column][1] for column in (0, 1)], 1) for row in (0, 1)])
    assert torch.equal(lower_right, torch.from_numpy(instances[256:, 256:] > 0).long())
    left = {round(value, 4) for value in bundle.train._image.flatten().tolist()}
    assert len(left) > 50
    crop, mask = Seeded(bundle.train, 0)[0, 3]
    assert crop.shape == (1, 128, 128)
    assert crop[0][mask == 1].mean() > crop[0][mask == 0].mean() + 0.5, "nuclei are bright"
    with pytest.raises(InputError, match="divides 256"):
        Nuclei(img_size=100)


@needs("stardist")
@pytest.mark.case("R7")
@pytest.mark.parametrize("img_size", [32, 256])
def test_no_nucleus_is_in_two_parts(img_size) -> None:
    """Nucleus by nucleus, in what is judged and in what is shown: the pixels of each are looked for in every part."""
    instances = read_nuclei()[1]
    whole, judged = Nuclei(img_size=img_size).load_instances(), Nuclei(img_size=img_size).load()

    def joined(split, part) -> np.ndarray:
        tiles, side = [split[n][part].squeeze().numpy() for n in range(len(split))], 256 // img_size
        return np.block([tiles[row * side : (row + 1) * side] for row in range(side)])

    shown = {"train": whole.train._image, "val": joined(whole.val, 0), "test": joined(whole.test, 0)}
    numbers = {"train": whole.train._mask, "val": joined(whole.val, 1), "test": joined(whole.test, 1)}
    kinds = {"train": judged.train._mask, "val": joined(judged.val, 1), "test": joined(judged.test, 1)}
    places = {"train": np.s_[:, :256], "val": np.s_[:256, 256:], "test": np.s_[256:, 256:]}
    seen = dict.fromkeys(places, 0)
    for number in range(1, instances.max() + 1):
        here = [part for part, place in places.items() if ((instances[place] == number) & (shown[part] != 0)).any()]
        assert here == [part for part in places if (numbers[part] == number).any()]
        assert here == [part for part, place in places.items() if (kinds[part][instances[place] == number] == 1).any()]
        assert len(here) <= 1
        for part in here:
            seen[part] += 1
    assert seen["test"] == len(np.unique(instances[256:, 256:])) - 1, "the test part is whole"
    assert min(seen.values()) >= 20
    assert sum(seen.values()) >= 125 - 12, "few lie in the margins alone"
    # and little else is lost
    for part, place in places.items():
        withheld = kinds[part] == IGNORE
        assert withheld.mean() < 0.15
        assert (withheld == (shown[part] == 0)).mean() > 0.999
        assert ((kinds[part] == 1) == (instances[place] > 0))[~withheld].all()
    assert any("nuclei lie across" in note for note in judged.notes)


@needs("nilearn", "nibabel")
@pytest.mark.case("R7")
def test_no_slice_of_the_brain_is_in_two_parts() -> None:
    volume = read_brain()[0]
    where = {np.rot90((volume[3:195, 20:212, z] - 0.16) / 0.26).astype(np.float32).tobytes(): z for z in range(volume.shape[2])}
    bundle = BrainSlabs().load()
    parts = [{where[image.tobytes()] for image in split._images} for split in (bundle.train, bundle.val, bundle.test)]
    for one in range(3):
        for other in range(one):
            assert min(abs(a - b) for a in parts[one] for b in parts[other]) > BrainSlabs().gap


@needs("stardist")
def test_crops_of_nuclei_are_turned_mirrored_and_lit_as_drawn() -> None:
    """Step by step in torch, bit for bit."""
    image, instances = (torch.from_numpy(array) for array in read_nuclei())
    across = set(instances[:, :256].unique().tolist()) & set(instances[:, 256:].unique().tolist()) - {0}
    kept = min(x for number in across for x in (instances == number).any(0).nonzero().flatten().tolist())
    left = image[:, :kept].numpy()
    standard = (image - float(left.mean())) / float(left.std())
    standard[:, kept:256] = 0
    settings = Nuclei(img_size=64)
    turned = set()
    kinds, numbers = (instances > 0).long(), instances.clone()
    kinds[:, kept:256], numbers[:, kept:256] = IGNORE, 0
    for bundle, masks in ((settings.load(), kinds), (settings.load_instances(), numbers)):
        for seed in range(40):
            torch.manual_seed(seed)
            y, x, turns = int(torch.randint(512 - 63, ())), int(torch.randint(256 - 63, ())), int(torch.randint(4, ()))
            mirrored = bool(torch.rand(()) < 0.5)
            want, mask = (whole[y : y + 64, x : x + 64].rot90(turns) for whole in (standard, masks))
            want, mask = (part.flip(-1) if mirrored else part for part in (want, mask))
            gain, shift = 1 + 0.2 * (2 * torch.rand(()) - 1), 0.2 * (2 * torch.rand(()) - 1)
            torch.manual_seed(seed)
            got, got_mask = bundle.train[0]
            assert torch.equal(got[0], gain * want + shift)
            assert torch.equal(got_mask, mask)
            assert (got.dtype, got_mask.dtype) == (torch.float32, torch.int64)
            assert got.is_contiguous()
            assert got_mask.is_contiguous()
            turned.add((turns, mirrored))
    assert len(turned) == 8


@needs("nilearn", "nibabel")
def test_slices_in_training_are_mirrored_and_lit_and_stay_what_they_are() -> None:
    split = BrainSlabs().load().train
    image, mask = torch.from_numpy(split._images[5].copy()), torch.from_numpy(split._masks[5].astype(np.int64))
    mirrored = set()
    for seed in range(8):
        torch.manual_seed(seed)
        mirror = bool(torch.rand(()) < 0.5)
        gain, shift = 1 + 0.2 * (2 * torch.rand(()) - 1), 0.2 * (2 * torch.rand(()) - 1)
        torch.manual_seed(seed)
        got, got_mask = split[5]
        assert torch.equal(got[0], gain * (image.flip(-1) if mirror else image) + shift)
        assert torch.equal(got_mask, mask.flip(-1) if mirror else mask)
        mirrored.add(mirror)
    assert mirrored == {False, True}


@needs("nilearn", "nibabel")
def test_brain_slabs_keep_apart() -> None:
    _, tissue = read_brain()
    # counted when the files were first looked at, in millions of voxels
    assert (np.bincount(tissue.ravel()) / 1e6).round(2).tolist() == [6.79, 0.17, 1.08, 0.63]
    bundle = BrainSlabs().load()
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (48, 24, 24)
    image, mask = bundle.test[0]
    assert image.shape == (1, 192, 192)
    assert mask.unique().tolist() == [0, 1, 2, 3]
    mean = [image[0][mask == label].mean().item() for label in range(4)]
    assert mean[0] < mean[2] < mean[3], "in T1 white matter is the brightest"


def test_a_wheel_that_is_missing_is_named(monkeypatch, tmp_path) -> None:
    from foveal.lab.data.segmentation import embedded

    embedded.read_nuclei.cache_clear()
    monkeypatch.setattr("foveal.lab.data._fetch.find_spec", lambda name: None)
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r'the image of nuclei needs stardist, which is not installed; remedy: pip install "foveal\[data\]"'):
        Nuclei().load()


def test_flag_swap_scenes_are_the_same_whoever_makes_them() -> None:
    settings = FlagSwap(train_scenes=3, val_scenes=3, test_scenes=3)
    one, other = settings.load(), settings.load()
    for split in ("train", "val", "test"):
        for a, b in zip(Subset(getattr(one, split), range(3)), Subset(getattr(other, split), range(3)), strict=True):
            assert torch.equal(a[0], b[0])
    assert not torch.equal(one.train[0][0], one.test[0][0])
    with pytest.raises(InputError, match="expected a side"):
        FlagSwap(side=8)
