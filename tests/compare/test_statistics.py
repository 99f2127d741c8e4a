"""Intervals and words, against scipy and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from foveal.compare.results import _words
from foveal.compare.statistics import Estimate, estimate, paired_difference, verdict
from foveal.tasks import Classification, Headline

accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(values=accuracies)
def test_intervals_are_scipys(values) -> None:
    assume(np.std(values) > 1e-9)
    got = estimate(values)
    want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (got.mean, got.low, got.high) == pytest.approx((np.mean(values), want.low, want.high), abs=1e-9)


@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_paired_intervals_are_scipys(pairs) -> None:
    ours, baseline = zip(*pairs, strict=True)
    assume(np.std(np.subtract(ours, baseline)) > 1e-9)
    got, want = paired_difference(ours, baseline), stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-9)


def test_three_seeds_by_hand() -> None:
    """0.90, 0.92, 0.94: deviation 0.02; t of 2 degrees of freedom is 4.30265; half-width 4.30265 · 0.02 / √3."""
    got = estimate([0.90, 0.92, 0.94])
    assert (got.mean, got.low, got.high) == pytest.approx((0.92, 0.92 - 0.049683, 0.92 + 0.049683), abs=1e-6)


def test_pairing_removes_what_the_seeds_share() -> None:
    """Seeds differ by ten points, the arms by one: unpaired nothing could be seen."""
    baseline = [0.70, 0.80, 0.90]
    ours = [0.711, 0.809, 0.910]
    assert verdict(paired_difference(ours, baseline)) == "better"
    assert estimate(ours).low < estimate(baseline).high


@pytest.mark.parametrize(
    ("ours", "baseline", "says"),
    [
        ([0.91, 0.92, 0.93], [0.81, 0.83, 0.82], "better"),
        ([0.81, 0.83, 0.82], [0.91, 0.92, 0.93], "worse"),
        ([0.91, 0.80, 0.93], [0.81, 0.92, 0.85], "no difference shown"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "no difference shown"),
        ([0.9], [0.1], "one seed"),
    ],
)
def testwords_of(ours, baseline, says) -> None:
    assert verdict(paired_difference(ours, baseline)) == says


@pytest.mark.parametrize(
    ("low", "high", "says"), [(0.0, 0.1, "no difference shown"), (-0.1, 0.0, "no difference shown"), (1e-6, 0.1, "better"), (-0.1, -1e-6, "worse")]
)
def test_an_interval_that_touches_zero_shows_nothing(low, high, says) -> None:
    assert verdict(Estimate((low + high) / 2, low, high)) == says


def test_runs_that_do_not_pair_are_ours_to_notice() -> None:
    with pytest.raises(AssertionError, match="same seeds"):
        paired_difference([0.1, 0.2], [0.1])


SPANS = {"better": [0.01, 0.02, 0.03], "worse": [-0.01, -0.03, -0.05], "no difference shown": [-0.02, 0.005, 0.03], "one seed": [0.02]}


def arms(*kinds: str, accuracy: float = 0.8) -> list[dict[str, Any]]:
    """Softmax, and others that did as the words say; intervals reach from the lowest seed to the highest."""
    out = [{"name": "softmax", "difference": None, "verdict": None, "rival": None, "metrics": {"accuracy": {"mean": accuracy}}}]
    for number, kind in enumerate(kinds):
        seeds = SPANS[kind]
        low, high = (min(seeds), max(seeds)) if len(seeds) > 1 else (None, None)
        difference = {"mean": sum(seeds) / len(seeds), "low": low, "high": high, "by_seed": seeds}
        out.append({"name": f"arm{number}", "difference": difference, "verdict": kind, "rival": None, "metrics": {"accuracy": {"mean": accuracy}}})
    return out


def words_of(compared: list[dict[str, Any]], seeds: int, headline: Headline = Classification.headline, baseline: str = "softmax") -> dict[str, Any]:
    return _words(compared, seeds, headline, 0.1, baseline)


@pytest.mark.parametrize(
    ("kinds", "seeds", "headline"),
    [
        ((), 3, "Only softmax attention was trained, so there is nothing to compare it with."),
        (("no difference shown", "no difference shown"), 3, "No difference from softmax attention was shown, for any attention compared."),
        (("better", "no difference shown"), 3, "Of 2 attentions compared with softmax, 1 did better; for 1 no difference was shown."),
        (("better", "worse", "worse"), 3, "Of 3 attentions compared with softmax, 1 did better and 2 did worse."),
        (("one seed",), 1, "One seed shows nothing: a second run of the same attention may differ as much. Take at least three."),
    ],
)
def test_headlines(kinds, seeds, headline) -> None:
    assert words_of(arms(*kinds), seeds)["headline"] == headline


def test_guessing_is_no_result() -> None:
    assert "much more than guessing" in words_of(arms("better", accuracy=0.14), 3)["headline"]
    assert "much more than guessing" not in words_of(arms("better", accuracy=0.16), 3)["headline"]


def test_lines_say_how_much_and_how_sure() -> None:
    words = words_of(arms("better", "worse", "no difference shown"), 3)
    assert words["lines"] == [
        {"arm": "arm0", "text": "arm0: better than softmax by 2.0 points (95 % interval +1.0 to +3.0)."},
        {"arm": "arm1", "text": "arm1: worse than softmax by 3.0 points (95 % interval −5.0 to −1.0)."},
        {"arm": "arm2", "text": "arm2: no difference shown (+0.5 points, 95 % interval −2.0 to +3.0, which holds zero)."},
    ]
    assert words["resolution"] == pytest.approx(0.02), "the median of the half-widths 1, 2 and 2.5 points"
    alone = words_of(arms("one seed"), 1)
    assert alone["lines"] == [{"arm": "arm0", "text": "arm0: +2.0 points from one seed, which shows nothing."}]
    assert alone["resolution"] is None


def test_seeds_that_all_point_one_way_are_mentioned() -> None:
    (softmax, arm) = arms("no difference shown")
    arm["difference"]["by_seed"] = [-0.001, -0.002, -0.05]
    (line,) = words_of([softmax, arm], 3)["lines"]
    assert line["text"].endswith("though all 3 seeds were below softmax; more seeds would tell.")


def test_a_rival_with_as_many_parameters_has_a_line() -> None:
    softmax, arm = arms("better")
    arm["rival"] = {"name": "softmax-wide", **{key: arms("worse")[1][key] for key in ("difference", "verdict")}}
    lines = words_of([softmax, arm], 3)["lines"]
    assert len(lines) == 2
    assert lines[1]["text"].startswith("arm0 against softmax-wide, which has as many parameters: worse than softmax-wide by 3.0 points")


def test_where_smaller_is_better_below_is_better() -> None:
    error = Headline("accuracy", "error", larger_is_better=False, scale=1.0, unit="px", step="px", decimals=3)
    assert verdict(Estimate(-0.2, -0.3, -0.1), larger_is_better=False) == "better"
    assert verdict(Estimate(0.2, 0.1, 0.3), larger_is_better=False) == "worse"
    assert verdict(Estimate(0.0, -0.1, 0.1), larger_is_better=False) == "no difference shown"
    none, arm = arms("worse")
    none["name"] = "none"
    arm["verdict"] = verdict(Estimate(-0.03, -0.05, -0.01), larger_is_better=False)
    words = words_of([none, arm], 3, error, "none")
    assert words["lines"][0]["text"] == "arm0: better than the network without attention by 0.030 px (95 % interval −0.050 to −0.010)."
    assert words["headline"] == "Of 1 attentions compared with the network without attention, 1 did better."
