"""Images to be drawn: the very digits that are classified, and strips whose squares match."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import InputError
from foveal.lab.data import ColorMatch, DigitImages, Digits
from foveal.lab.data.generation import PALETTE


def test_digits_to_be_drawn_are_those_that_are_classified() -> None:
    drawn, classified = DigitImages(source="digits", train_digits=40).load(), Digits(source="digits", train_digits=40).load()
    assert len(drawn.train) == 40
    for split in ("train", "val", "test"):
        ours, theirs = getattr(drawn, split), getattr(classified, split)
        assert len(ours) == len(theirs)
        for place in (0, 7, len(ours) - 1):
            image, label = ours[place]
            other, truth = theirs[place]
            assert label == truth
            torch.testing.assert_close((image + 1) / 2, other * 0.25 + 0.13, atol=1e-6, rtol=0)
            assert image.min() >= -1
            assert image.max() <= 1
    assert drawn.size == (8, 8)
    assert DigitImages().smoke_data() == DigitImages(source="digits", train_digits=16)
    photo = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    assert drawn.prepare(photo).shape == (1, 8, 8)


def test_squares_of_a_strip_have_one_color_and_any_place() -> None:
    data = ColorMatch(noise=0.0, train_scenes=300, val_scenes=2, test_scenes=2)
    bundle = data.load()
    places, colors = set(), []
    for number in range(300):
        image, label = bundle.train[number]
        assert label == 0
        where = (image != -0.8).any(0).nonzero()
        left, right = where[where[:, 1] < 6], where[where[:, 1] >= 6]
        assert len(left) == len(right) == 4
        shown = {tuple(image[:, row, column].tolist()) for row, column in where.tolist()}
        assert len(shown) == 1
        colors.append([tuple(color.tolist()) for color in PALETTE].index(shown.pop()))
        places.add((left[:, 0].min().item(), right[:, 0].min().item()))
        assert left[:, 1].min() <= 1
        assert right[:, 1].max() >= 10
    assert {row for row, _ in places} == {row for _, row in places} == set(range(7))
    assert len(places) > 40, "each square has a row of its own"
    assert min(np.bincount(colors)) > 50
    assert len(np.bincount(colors)) == 4
    noisy = replace_noise(data)
    found = data.colors_of(torch.stack([noisy[n][0] for n in range(300)]))
    assert torch.equal(found, torch.tensor(colors)[:, None].expand(-1, 2)), "the colors are told under noise"
    mixed = torch.cat([torch.stack([noisy[n][0] for n in range(0, 300)])[..., :6], torch.stack([noisy[n - 1][0] for n in range(300)])[..., 6:]], -1)
    assert data.colors_of(mixed).tolist() == [[colors[n], colors[n - 1]] for n in range(300)]


def replace_noise(data: ColorMatch):
    return ColorMatch(noise=0.05, train_scenes=data.train_scenes, val_scenes=2, test_scenes=2).load().train


def test_strips_differ_by_split_and_seed_and_are_made_again() -> None:
    few = {"train_scenes": 3, "val_scenes": 3, "test_scenes": 3}
    first, again, other = ColorMatch(**few).load(), ColorMatch(**few).load(), ColorMatch(**few, seed=1).load()
    assert torch.equal(first.train[0][0], again.train[0][0])
    assert not torch.equal(first.train[0][0], first.val[0][0])
    assert not torch.equal(first.train[0][0], other.train[0][0])
    assert first.prepare(Image.new("L", (40, 30))).shape == (3, 8, 12)


@pytest.mark.parametrize(
    ("settings", "says"), [({"width": 11}, "even width"), ({"square": 6}, "even width"), ({"colors": 9}, "colors"), ({"noise": -1.0}, "noise")]
)
def test_strips_that_cannot_be_are_refused(settings, says) -> None:
    with pytest.raises(InputError, match=says):
        ColorMatch(**settings)
