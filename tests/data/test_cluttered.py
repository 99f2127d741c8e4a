"""Cluttered digits: what a scene is made of, from its pixels and from the source digits."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal import InputError
from foveal.lab.data import ClutteredDigits, load_digits, seed_of
from foveal.lab.data.digits import split_by_class

# as large as the source, so that digits can be found again pixel for pixel; without noise
EXACT = ClutteredDigits(source="digits", cells=3, digit=8, distractors=3, noise=0.0, train_scenes=60, val_scenes=30, test_scenes=40)
NOISY = replace(EXACT, noise=0.1)


def pixels(split, index: int) -> np.ndarray:
    """0 to 1."""
    return (split[index][0][0] * 0.25 + 0.13).numpy()


def cells(scene: np.ndarray, settings: ClutteredDigits = EXACT) -> list[np.ndarray]:
    d = settings.digit
    return [scene[r * d : (r + 1) * d, c * d : (c + 1) * d] for r in range(settings.cells) for c in range(settings.cells)]


@pytest.fixture(scope="module")
def source() -> tuple[np.ndarray, np.ndarray]:
    return load_digits("digits")


@pytest.fixture(scope="module")
def bundle():
    return EXACT.load()


def found(cell: np.ndarray, level: float, source: tuple[np.ndarray, np.ndarray]) -> set[int]:
    """Indices of source digits that look like this cell at this brightness."""
    error = np.abs(source[0] / 255 * level - cell).max((1, 2))
    return set(np.flatnonzero(error < 1.5 / 255).tolist())


def test_a_scene_is_one_bright_digit_and_dimmer_ones_of_other_classes(bundle, source) -> None:
    for index in range(len(bundle.test)):
        label, bright, dim = bundle.test[index][1], [], []
        for cell in cells(pixels(bundle.test, index)):
            if cell.max() == 0:
                continue
            targets, distractors = found(cell, 1.0, source), found(cell, EXACT.distractor_level, source)
            assert bool(targets) != bool(distractors), "each cell holds a digit at one of the two levels"
            (bright if targets else dim).append({int(source[1][i]) for i in targets or distractors})
        assert bright == [{label}], "the label is the class of the bright digit"
        assert len(dim) == EXACT.distractors
        assert all(label not in classes for classes in dim)


def test_splits_are_made_of_different_digits(bundle, source) -> None:
    used: dict[str, set[int]] = {}
    for name, split in (("train", bundle.train), ("val", bundle.val), ("test", bundle.test)):
        used[name] = set()
        for index in range(len(split)):
            for cell in cells(pixels(split, index)):
                matches = (found(cell, 1.0, source) or found(cell, EXACT.distractor_level, source)) if cell.max() else set()
                # the source holds no two equal digits, so a match is the digit
                used[name] |= matches if len(matches) == 1 else set()
        assert len(used[name]) > 40
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]


def test_masks_are_where_the_ink_is(bundle) -> None:
    for index in range(10):
        scene, masks = pixels(bundle.test, index), bundle.test.masks(index)
        assert set(masks) == {"target", "distractors"}
        assert all(mask.shape == scene.shape and mask.dtype == torch.bool for mask in masks.values())
        for cell, target, other in zip(cells(scene), cells(masks["target"].numpy()), cells(masks["distractors"].numpy()), strict=True):
            bright = cell.max() > EXACT.distractor_level + 0.01
            assert np.array_equal(target, cell > 0.3) if bright else not target.any()
            assert not other.any() if bright else np.array_equal(other, cell > 0.3 * EXACT.distractor_level)


def test_noise_has_the_stated_spread_and_changes_nothing_else(bundle) -> None:
    noisy = NOISY.load()
    gray = replace(EXACT, noise=0.1, distractors=0).load()
    spread = []
    for index in range(30):
        assert noisy.test[index][1] == bundle.test[index][1]
        assert torch.equal(noisy.test.masks(index)["target"], bundle.test.masks(index)["target"])
        scene = pixels(gray.test, index)
        # of what lies in the dark only the upper half of the noise survives
        dark = ~torch.nn.functional.max_pool2d(gray.test.masks(index)["target"][None].float(), 17, 1, 8)[0].bool().numpy()
        spread.append(scene[dark])
    values = np.concatenate(spread)
    assert np.sqrt(2 * np.mean(values**2)) == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(noisy.test[0][0], bundle.test[0][0])


def test_every_class_and_every_cell_can_be_the_target(bundle) -> None:
    assert {bundle.train[i][1] for i in range(len(bundle.train))} == set(range(10))
    places = {next(n for n, cell in enumerate(cells(bundle.train.masks(i)["target"].numpy())) if cell.any()) for i in range(len(bundle.train))}
    assert places == set(range(9))


def digest(settings: ClutteredDigits) -> str:
    bundle = settings.load()
    hashed = hashlib.sha256()
    for split in (bundle.train, bundle.val, bundle.test):
        for index in range(len(split)):
            hashed.update(split[index][0].numpy().tobytes() + bytes([split[index][1]]))
            hashed.update(split.masks(index)["target"].numpy().tobytes())
    return hashed.hexdigest()


def test_scenes_are_the_same_in_every_process() -> None:
    code = f"from tests.data.test_cluttered import *; print(digest({NOISY!r}))"
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "7"}, cwd=root)
    assert other.stdout.strip() == digest(NOISY)


def test_a_scene_depends_on_settings_and_index_alone(bundle) -> None:
    longer = replace(EXACT, test_scenes=50, train_scenes=3).load()
    assert all(torch.equal(longer.test[i][0], bundle.test[i][0]) for i in range(40))
    other = replace(EXACT, seed=1).load()
    assert sum(torch.equal(other.test[i][0], bundle.test[i][0]) for i in range(40)) == 0
    assert sum(torch.equal(bundle.val[i][0], bundle.test[i][0]) for i in range(30)) == 0


def test_what_a_model_needs_to_know(bundle) -> None:
    from PIL import Image

    assert (bundle.img_size, bundle.in_chans, bundle.classes) == (24, 1, [str(n) for n in range(10)])
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (60, 30, 40)
    assert bundle.test[0][0].shape == (1, 24, 24)
    assert bundle.test[0][0].dtype == torch.float32
    # a picture of a scene is prepared to be that scene
    picture = Image.fromarray((pixels(bundle.test, 0) * 255).round().astype(np.uint8))
    torch.testing.assert_close(bundle.prepare(picture), bundle.test[0][0])
    assert bundle.prepare(Image.new("RGBA", (50, 31))).shape == (1, 24, 24)


def test_mnist_scenes_are_resized_digits() -> None:
    bundle = ClutteredDigits(train_scenes=2, val_scenes=1, test_scenes=5).load()
    for index in range(5):
        image, mask = bundle.test[index][0][0], bundle.test.masks(index)["target"]
        assert image.shape == (36, 36)
        assert 0.05 < mask.float().mean() * 9 < 0.6, "a digit covers part of its cell"
        assert image[mask].mean() > image[~mask].mean() + 1


@pytest.mark.parametrize(
    "change",
    [
        {"digit": 3},
        {"distractors": -1},
        {"distractors": 9},
        {"cells": 0},
        {"cells": -3},
        {"noise": -0.1},
        {"distractor_level": 1.1},
        {"distractor_level": -0.1},
        {"train_scenes": 0},
        {"val_scenes": 0},
        {"test_scenes": -1},
    ],
)
def test_numbers_that_make_no_scene_are_refused(change) -> None:
    with pytest.raises(InputError, match=f"{next(iter(change))}={next(iter(change.values()))}"):
        replace(EXACT, **change)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="unknown digit source 'mnst'; did you mean mnist"):
        ClutteredDigits(source="mnst").load()


def test_split_by_class_gives_every_class_its_share() -> None:
    labels = np.repeat([3, 1, 2], [10, 20, 50])
    parts = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    for part, fraction in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert [int((labels[part] == label).sum()) for label in (3, 1, 2)] == [round(fraction * n) for n in (10, 20, 50)]


def test_seeds_are_told_apart_and_never_change() -> None:
    assert len({seed_of(*parts) for parts in ((), (1,), (1, 2), (12,), ("1", 2), ("a", "b"), ("ab",))}) == 7
    assert all(0 <= seed_of(n) < 2**63 for n in range(200))
    # the first eight bytes of sha256("(1, 'x')"), little-endian, halved
    assert seed_of(1, "x") == int.from_bytes(hashlib.sha256(b"(1, 'x')").digest()[:8], "little") // 2
