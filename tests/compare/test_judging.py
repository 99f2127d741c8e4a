"""Judging of runs from the numbers that they left: what several looks together may err, and what is no certainty though no spread is seen."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

from foveal.lab.compare import make_plan
from foveal.lab.compare.judging import judge, rates_of
from foveal.lab.tasks import Classification, PrimaryMetric
from foveal.lab.training import write_json
from foveal.models import ViT
from tests.training.helpers import tiny

RECIPE = tiny(model=ViT())


@dataclass(frozen=True, kw_only=True)
class Mean(Classification):
    """Judged by another number than a share of images."""

    primary_metric: ClassVar[PrimaryMetric] = PrimaryMetric("class_accuracy", "mean accuracy of classes")


IMAGES = RECIPE.data.test_scenes


def left(folder: Path, plan, **values: tuple[float, ...]) -> None:
    for name, own in values.items():
        for seed, value in enumerate(own):
            (folder / name / f"seed-{seed}").mkdir(parents=True)
            write_json(folder / name / f"seed-{seed}" / "metrics.json", {plan.recipe.task.primary_metric.name: value, "loss": 1.0})


@pytest.mark.parametrize("looks", [(4, 8, 12), (2, 3, 5)])
def test_all_looks_together_err_in_one_report_of_twenty(looks) -> None:
    """By 400,000 drawn comparisons of known spread, at each look the mean of so many seeds."""
    rates = rates_of(make_plan(RECIPE, ("denoising",), looks=looks))
    steps = np.diff([0, *looks])
    draws = np.random.default_rng(0).normal(size=(400_000, len(looks))) * np.sqrt(steps)
    seen = draws.cumsum(1) / np.sqrt(looks)
    assert (np.abs(seen) > stats.norm.isf(rates.difference / 2)).any(1).mean() == pytest.approx(0.05, abs=0.0012), "called a difference where there is none"
    # of a difference as large as the margin, equality is called where the mean is so far on one side
    assert (seen > stats.norm.isf(rates.equal)).any(1).mean() == pytest.approx(0.05, abs=0.0012)
    alone = rates_of(make_plan(RECIPE, ("denoising",), seeds=3))
    assert (alone.difference, alone.equal) == (0.05, 0.05)


def test_seeds_that_differ_by_the_same_image_are_no_certainty(tmp_path) -> None:
    plan = make_plan(RECIPE, ("denoising",), seeds=2)
    left(tmp_path, plan, softmax=(0.5, 0.6), denoising=(0.5 + 1 / IMAGES, 0.6 + 1 / IMAGES))
    (found,) = judge(plan, tmp_path).comparisons
    assert found.difference.mean == pytest.approx(1 / IMAGES)
    assert found.verdict == "not settled"
    # two values, each rounded to an image: a variance of two times grain² / 12
    error = (1 / IMAGES) / 6**0.5 / 2**0.5
    assert found.difference.high - found.difference.mean == pytest.approx(stats.t.isf(0.025, 1) * error)
    # and a number that is no share of images has no such step
    other = replace(plan, recipe=replace(plan.recipe, task=Mean()))
    left(tmp_path / "other", other, softmax=(0.5, 0.6), denoising=(0.5 + 1 / IMAGES, 0.6 + 1 / IMAGES))
    assert judge(other, tmp_path / "other").comparisons[0].verdict == "better"


def test_as_many_seeds_are_judged_as_are_asked(tmp_path) -> None:
    plan = make_plan(RECIPE, ("denoising",), seeds=4, margin=2.0)
    left(tmp_path, plan, softmax=(0.5, 0.52, 0.1, 0.9), denoising=(0.6, 0.63, 0.2, 0.3))
    found = judge(plan, tmp_path, 2)
    assert found.comparisons[0].by_seed == pytest.approx((0.1, 0.11))
    assert found.margin == pytest.approx(0.02), "two points"
    assert len(judge(plan, tmp_path).comparisons[0].by_seed) == 4


@pytest.mark.parametrize(("margin", "verdict"), [(1.4, "not settled"), (1.6, "equal")])
def test_what_is_equal_lies_within_the_margin_of_the_plan(margin, verdict, tmp_path) -> None:
    plan = make_plan(replace(RECIPE, task=Mean()), ("denoising",), seeds=2, margin=margin)
    # an interval of 1.5 points to both sides of none, by the two one-sided tests at 5 %
    apart = 0.015 / stats.t.isf(0.05, 1)
    left(tmp_path, plan, softmax=(0.5, 0.6), denoising=(0.5 + apart, 0.6 - apart))
    (found,) = judge(plan, tmp_path).comparisons
    assert (found.equality.low, found.equality.high) == pytest.approx((-0.015, 0.015))
    assert found.verdict == verdict
