"""Scores of single test samples: kept by runs, and what another draw of them would have changed."""

import numpy as np
import pytest
import torch

from foveal import InputError
from foveal.lab.compare.sampling import bootstrap
from foveal.lab.tasks import Classification, StereoMatching
from foveal.lab.training import build_model, evaluate, fit, load_data, load_run
from foveal.lab.training.samples import SAMPLES, SampleScores, read_samples
from tests.training.helpers import tiny


def hits(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return (generator.random(shape) < 0.7).astype(float)


def test_runs_keep_what_each_test_sample_scored(tmp_path) -> None:
    metrics = fit(tiny(steps=4), tmp_path, quiet=True)
    scores, keys = read_samples(tmp_path)
    recipe, bundle, model = load_run(tmp_path)
    with torch.no_grad():
        want = [float(model(image[None]).argmax() == label) for image, label in (bundle.test[n] for n in range(len(bundle.test)))]
    assert scores.tolist() == want
    assert scores.mean() == pytest.approx(metrics["accuracy"])
    assert len(set(keys.tolist())) == len(bundle.test) == 30
    again = SampleScores()
    evaluate(build_model(recipe, bundle), load_data(recipe.data).test, recipe, bundle, samples=again)
    again.write(tmp_path)
    assert read_samples(tmp_path)[1].tolist() == keys.tolist(), "the same samples have the same keys under another network"


def test_tasks_whose_number_is_no_mean_over_samples_keep_none(tmp_path) -> None:
    scores = SampleScores()
    scores.add(0, None, torch.zeros(2, 1))
    scores.write(tmp_path)
    assert read_samples(tmp_path) is None
    (tmp_path / SAMPLES).write_bytes(b"{}")
    with pytest.raises(InputError, match="remove"):
        read_samples(tmp_path)


def test_scores_of_tasks_average_to_their_number() -> None:
    """Of classification and stereo, by their own metrics."""
    logits, labels = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    assert Classification().per_sample(logits, labels).mean() == (logits.argmax(-1) == labels).float().mean()
    truth = [torch.rand(4, 5) for _ in range(3)]
    truth[1][0, 0] = float("nan")
    outputs = torch.rand(3, 1, 4, 5)
    got = StereoMatching().per_sample(outputs, [(t, -1) for t in truth])
    want = [np.nanmean(np.abs(outputs[n, 0].numpy() - truth[n].numpy())) for n in range(3)]
    assert got.tolist() == pytest.approx(want, rel=1e-5)
    assert StereoMatching().per_sample(outputs, [(t, 0) for t in truth]) is None, "named scenes are judged one by one"


def test_samples_in_common_are_the_covariance_between_seeds() -> None:
    """By hand: the covariance over samples of two seeds' differences, over their number."""
    generator, size, seeds = np.random.default_rng(0), 400, 4
    # what makes an image hard for one of the two is common to all seeds
    hard = generator.random(size)
    keys = np.arange(size)
    knows = {"a": hard < 0.8, "b": hard > 0.4}
    runs = {name: [((known ^ (generator.random(size) < 0.1)).astype(float), keys) for _ in range(seeds)] for name, known in knows.items()}
    (found,) = bootstrap(runs, [("a", "b")])
    differences = np.array([one[0] - other[0] for one, other in zip(runs["a"], runs["b"], strict=True)])
    covariance = np.cov(differences, bias=True) / size
    want = covariance[~np.eye(seeds, dtype=bool)].mean()
    assert want > 0
    assert found.shared**2 == pytest.approx(want, rel=0.15)
    assert found.own**2 == pytest.approx(np.diag(covariance).mean(), rel=0.1)
    assert found.low < differences.mean() < found.high
    assert bootstrap(runs, [("a", "b")]) == [found], "the same draws each time"


def test_seeds_with_tests_of_their_own_share_nothing() -> None:
    generator = np.random.default_rng(0)
    runs = {name: [(hits(generator, 100), np.arange(100) + 100 * seed) for seed in range(3)] for name in "ab"}
    (found,) = bootstrap(runs, [("a", "b")])
    assert found.shared == 0.0
    assert found.own == pytest.approx((2 * 0.21 / 100) ** 0.5, rel=0.3), "two independent shares of 0.7 over 100 samples"


def test_without_scores_or_with_other_samples_nothing_is_said() -> None:
    generator = np.random.default_rng(0)
    scored = (hits(generator, 10), np.arange(10))
    assert bootstrap({"a": [scored], "b": [None]}, [("a", "b")]) is None
    assert bootstrap({"a": [scored], "b": [(scored[0], np.arange(10) + 5)]}, [("a", "b")]) is None
    assert bootstrap({"a": [scored]}, []) is None
