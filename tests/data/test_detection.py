"""Detection sets: boxes and masks against what is in the pictures."""

import pytest
import torch

from foveal import InputError
from foveal.data import DigitScenes, FlagSwap, FlagSwapBoxes, NucleiInstances, instances_of, read_nuclei

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
