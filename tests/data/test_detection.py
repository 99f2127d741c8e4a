"""Detection sets: boxes and masks against what is in the pictures."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import CocoFolder, DigitScenes, FlagSwap, FlagSwapBoxes, NucleiInstances, instances_of, read_nuclei

DIGITS = DigitScenes(source="digits", side=40, smallest=8, largest=14, train_scenes=30, val_scenes=5, test_scenes=5)


def test_instances_by_hand() -> None:
    numbers = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 3], [4, 0, 0, 3]])
    got = instances_of(numbers, [5, 6, 7, 8], 9)
    assert got["labels"].tolist() == [5, 7, 8], "number 2 is not seen"
    assert got["boxes"].tolist() == [[1, 0, 3, 2], [3, 1, 4, 3], [0, 2, 1, 3]]
    assert torch.equal(got["masks"], torch.stack([numbers == 1, numbers == 3, numbers == 4]))
    assert instances_of(numbers, [5, 6, 7, 8], 9, smallest=2)["labels"].tolist() == [5, 7]
    nothing = instances_of(torch.zeros(3, 4, dtype=torch.int64), [], 0)
    assert (nothing["boxes"].shape, nothing["masks"].shape) == ((0, 4), (0, 3, 4))


def test_digits_lie_where_boxes_and_masks_say() -> None:
    bundle = DIGITS.load()
    counts = set()
    for index in range(len(bundle.train)):
        image, target = bundle.train[index]
        assert image.shape == (1, 40, 40)
        counts.add(len(target["labels"]))
        seen = image[0][target["masks"].any(0)].mean()
        assert seen > image[0][~target["masks"].any(0)].mean() + 1
        for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
            rows, columns = torch.where(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (target["masks"].sum(0) <= 1).all(), "a pixel is of one digit"
        assert (target["boxes"][:, 2:] - target["boxes"][:, :2]).amax() <= 14 if len(target["boxes"]) else True
    assert counts >= {1, 3, 5}


def test_digit_scenes_depend_on_the_settings_alone_and_splits_share_no_digit() -> None:
    one, two = DIGITS.load(), DIGITS.load()
    for split in ("train", "test"):
        a, b = getattr(one, split)[3], getattr(two, split)[3]
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1]["boxes"], b[1]["boxes"])
    sources = [{tuple(digit.flatten().tolist()) for digit in getattr(one, name)._split._digits} for name in ("train", "val", "test")]
    assert not sources[0] & sources[1] | sources[0] & sources[2] | sources[1] & sources[2]


@pytest.mark.parametrize("options", [{"smallest": 3}, {"largest": 90}, {"most": 0}, {"noise": -1.0}, {"val_scenes": 0}])
def test_numbers_that_make_no_scene_are_refused(options) -> None:
    with pytest.raises(InputError, match="expected"):
        DigitScenes(**options)


def test_flag_swap_boxes_are_those_of_the_masks() -> None:
    sizes = {"train_scenes": 20, "val_scenes": 1, "test_scenes": 1}
    plain, boxes = FlagSwap(**sizes).load().train, FlagSwapBoxes(**sizes).load()
    assert boxes.classes == ["first", "second"]
    for index in range(20):
        (image, mask), (same, target) = plain[index], boxes.train[index]
        assert torch.equal(image, same)
        assert (target["boxes"][:, 2:] - target["boxes"][:, :2]).tolist() == [[7, 7], [7, 7]]
        assert target["boxes"][0, 2] <= 12 <= target["boxes"][1, 0]
        again = (target["masks"].long() * (target["labels"] + 1).view(-1, 1, 1)).sum(0)
        assert torch.equal(again, mask)
    with pytest.raises(InputError):
        FlagSwapBoxes(side=3)


@pytest.mark.parametrize("data", [DIGITS, FlagSwapBoxes(train_scenes=6, val_scenes=1, test_scenes=1)], ids=["digits", "flag swap"])
def test_scenes_that_stay_are_looked_at_once(data) -> None:
    made = data.load().train
    for split in (made, pickle.loads(pickle.dumps(made))):
        for index in (*range(6), *range(6)):
            image, numbers = split._split[index]
            got, target = split[index]
            assert torch.equal(got, image)
            seen = [number for number in numbers.unique().tolist() if number and ((numbers == number).sum() >= 5)]
            assert target["labels"].tolist() == [split._labels[index][number - 1] for number in seen]
            assert torch.equal(target["masks"], torch.stack([numbers == number for number in seen]))
            corners = [torch.where(numbers == number) for number in seen]
            assert target["boxes"].tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in corners]
            assert (target["boxes"].dtype, target["labels"].dtype, target["image_id"].tolist()) == (torch.float32, torch.int64, index)
            # what a reader does to its target is not seen by the next one
            for value in target.values():
                value.zero_()
        assert split._kept.keys() == set(range(6)), "an entry for each scene, however often it is read"


def test_of_crops_that_are_drawn_anew_nothing_is_kept() -> None:
    split = NucleiInstances(img_size=64, crops=3).load().train
    assert not torch.equal(split[0][0], split[0][0])
    assert not split._kept


def test_nuclei_are_split_by_place() -> None:
    bundle = NucleiInstances(img_size=64, crops=3).load()
    numbers = read_nuclei()[1]
    corner = torch.from_numpy(numbers[256:320, 256:320])
    _, target = bundle.test[0]
    want = [number for number in corner.unique().tolist() if number and (corner == number).sum() >= 30]
    assert len(target["labels"]) == len(want)
    for mask, number in zip(target["masks"], want, strict=True):
        assert torch.equal(mask, corner == number)
    torch.manual_seed(0)
    assert all(len(bundle.train[n][1]["boxes"]) > 0 for n in range(3))
    assert bundle.train.augments
    assert (len(bundle.val), len(bundle.test)) == (16, 16)


# -- COCO's format --------------------------------------------------------------------------------------------------------------------------------


def polygon(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco(root: Path, **changes: Any) -> dict[str, Any]:
    """A miniature of COCO: two images with objects, a crowd, an empty image, and one that is no image. Returns the annotations."""
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    packed = np.zeros((20, 30), np.uint8)
    packed[5:9, 10:20] = 1
    encoded = coco_mask.encode(np.asfortranarray(packed))
    encoded["counts"] = encoded["counts"].decode()
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 4, 10, 6], "area": 60, "iscrowd": 0, "segmentation": polygon(2, 4, 12, 10)},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 90,
            "bbox": [10, 5, 10, 4],
            "area": 40,
            "iscrowd": 0,
            "segmentation": encoded,
        },
        # columns first: 20 high, so that column 1 begins at 20; a crowd of 5 pixels in column 1
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [1, 2, 1, 5], "area": 5, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [22, 5, 573]}},
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [0, 0, 0, 5], "area": 0, "iscrowd": 0, "segmentation": polygon(0, 0, 0, 5)},
    ]
    values: dict[str, Any] = {
        "images": [{"id": number, "file_name": f"{number:012}.jpg", "height": 20, "width": 30} for number in (7, 9, 11)],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
        **changes,
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name in ("train2017", "val2017"):
        (root / name).mkdir(exist_ok=True)
        for number in (7, 9):
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(root / name / f"{number:012}.jpg", quality=95)
        (root / name / f"{11:012}.jpg").write_bytes(b"no image")
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(values))
    return values


def test_coco_is_read_as_it_is_stored(tmp_path) -> None:
    coco(tmp_path)
    bundle = CocoFolder(root=tmp_path, flip=False).load()
    assert (bundle.classes, bundle.category_ids) == (["car", "toothbrush"], (3, 90))
    assert (len(bundle.train), len(bundle.val)) == (1, 2), "training leaves the empty image out, evaluation keeps it"
    assert any("unreadable" in note and "000000000011.jpg" in note for note in bundle.notes)
    assert any("1 boxes without width" in note for note in bundle.notes)
    image, target = bundle.val[0]
    assert image.shape == (3, 20, 30)
    assert target["image_id"] == 7
    assert target["boxes"].tolist() == [[2, 4, 12, 10], [10, 5, 20, 9], [1, 2, 2, 7]]
    assert target["labels"].tolist() == [0, 1, 0]
    assert target["iscrowd"].tolist() == [0, 0, 1]
    assert target["area"].tolist() == [60, 40, 5]
    for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
        want = torch.zeros(20, 30, dtype=torch.bool)
        want[top:bottom, left:right] = True
        assert torch.equal(mask, want)
    _, empty = bundle.val[1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, 20, 30)
    assert len(CocoFolder(root=tmp_path, keep_empty=True).load().train) == 2
    assert "masks" not in CocoFolder(root=tmp_path, masks=False).load().val[0][1]


def test_images_boxes_and_masks_are_mirrored_together(tmp_path) -> None:
    coco(tmp_path)
    bundle = CocoFolder(root=tmp_path).load()
    plain, target = bundle.val[0]
    plain = CocoFolder(root=tmp_path, flip=False).load().train[0][0]
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        image, turned = bundle.train[0]
        mirrored = torch.equal(image, plain.flip(-1))
        assert mirrored or torch.equal(image, plain)
        seen.add(mirrored)
        want = torch.stack([30 - target["boxes"][:, 2], target["boxes"][:, 1], 30 - target["boxes"][:, 0], target["boxes"][:, 3]], 1)
        assert torch.equal(turned["boxes"], want if mirrored else target["boxes"])
        assert torch.equal(turned["masks"], target["masks"].flip(-1) if mirrored else target["masks"])
        assert type(turned["boxes"]) is type(turned["masks"]) is torch.Tensor
    assert seen == {True, False}


def test_a_camera_held_sideways_does_not_turn_the_boxes(tmp_path) -> None:
    coco(tmp_path)
    file = tmp_path / "val2017" / f"{7:012}.jpg"
    with Image.open(file) as image:
        exif = image.getexif()
        exif[274] = 6
        image.save(file, exif=exif)
    assert CocoFolder(root=tmp_path).load().val[0][0].shape == (3, 20, 30)


def without(values: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    first, *rest = values["annotations"]
    return [{name: value for name, value in {**first, **changes}.items() if value is not None}, *rest]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda values: {"annotations": without(values, image_id=8)}, "annotation 1 is of image 8"),
        (lambda values: {"annotations": without(values, category_id=4)}, "annotation 1 is of category 4"),
        (lambda values: {"annotations": without(values, segmentation=None)}, "annotation 1 has no mask"),
        (lambda values: {"annotations": without(values, bbox=None)}, "not in COCO's format: KeyError 'bbox'"),
        (lambda values: {"annotations": without(values, segmentation={"size": [3, 3], "counts": [1, 2, 6]})}, "mask of annotation 1"),
        (lambda values: {"categories": None}, "not in COCO's format"),
        (lambda values: {"images": [{**image, "width": 31} for image in values["images"]]}, "is 30×20, but .* says 31×20"),
        (lambda values: {"images": values["images"][2:], "annotations": []}, "leaves no image to train with"),
        (lambda values: {"categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "car"}]}, "categories of one name"),
    ],
)
def test_what_is_wrong_with_annotations_is_named(tmp_path, spoil, message) -> None:
    values = coco(tmp_path)
    coco(tmp_path, **spoil(values))
    with pytest.raises(InputError, match=message):
        CocoFolder(root=tmp_path).load().val[0]


def test_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match="train2017 is no folder"):
        CocoFolder(root=tmp_path).load()
    values = coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps({**values, "images": values["images"][:2]}))
    (tmp_path / "val2017" / f"{9:012}.jpg").unlink()
    assert len(CocoFolder(root=tmp_path).load().val) == 1
    with pytest.raises(InputError, match=r"cannot read .*000000000009.jpg"):
        CocoFolder(root=tmp_path, check=False).load().val[1]
    file.write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        CocoFolder(root=tmp_path).load()
    file.unlink()
    with pytest.raises(InputError, match="does not exist"):
        CocoFolder(root=tmp_path).load()
