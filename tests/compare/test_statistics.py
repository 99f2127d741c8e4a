"""Intervals and words, against scipy and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from foveal.lab.compare.statistics import Estimate, compare_pairs, estimate, paired_difference, pool_residuals, verdict
from foveal.lab.compare.words import verdict_words
from foveal.lab.tasks import Classification, PrimaryMetric

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
        ([0.91, 0.80, 0.93], [0.81, 0.92, 0.85], "not settled"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "not settled"),
        ([0.9], [0.1], "one seed"),
    ],
)
def testwords_of(ours, baseline, says) -> None:
    assert verdict(paired_difference(ours, baseline)) == says


@pytest.mark.parametrize(("low", "high", "says"), [(0.0, 0.1, "not settled"), (-0.1, 0.0, "not settled"), (1e-6, 0.1, "better"), (-0.1, -1e-6, "worse")])
def test_an_interval_that_touches_zero_shows_nothing(low, high, says) -> None:
    assert verdict(Estimate((low + high) / 2, low, high)) == says


def test_runs_that_do_not_pair_are_ours_to_notice() -> None:
    with pytest.raises(AssertionError, match="same seeds"):
        paired_difference([0.1, 0.2], [0.1])


SPANS = {"better": [0.01, 0.02, 0.03], "worse": [-0.01, -0.03, -0.05], "not settled": [-0.02, 0.005, 0.03], "one seed": [0.02]}


def compared(kind: str, **more: Any) -> dict[str, Any]:
    """What is said of one comparison; the interval reaches from the lowest seed to the highest."""
    seeds = SPANS[kind]
    low, high = (min(seeds), max(seeds)) if len(seeds) > 1 else (None, None)
    difference = {"mean": sum(seeds) / len(seeds), "low": low, "high": high, "by_seed": seeds}
    return {"difference": difference, "verdict": kind, "leaning": None, "seeds_to_settle": None} | more


def arms(*kinds: str, accuracy: float = 0.8) -> list[dict[str, Any]]:
    """Softmax, and others that did as the words say."""
    metrics = {"rival": None, "metrics": {"accuracy": {"mean": accuracy}}}
    return [{"name": "softmax", "difference": None} | metrics, *({"name": f"arm{n}"} | compared(kind) | metrics for n, kind in enumerate(kinds))]


def words_of(compared: list[dict[str, Any]], seeds: int, headline: PrimaryMetric = Classification.primary_metric, baseline: str = "softmax") -> dict[str, Any]:
    return verdict_words(compared, seeds, headline, 0.1, baseline)


@pytest.mark.parametrize(
    ("kinds", "seeds", "headline"),
    [
        ((), 3, "Only softmax attention has results, so there is nothing to compare it with."),
        (("not settled", "not settled"), 3, "No attention compared was shown to be better or worse than softmax attention."),
        (("better", "not settled"), 3, "Of 2 attentions compared with softmax, 1 is better; for 1 it is not settled."),
        (("better", "worse", "worse"), 3, "Of 3 attentions compared with softmax, 1 is better and 2 are worse."),
        (("one seed",), 1, "One seed is not conclusive: a second run of the same attention may differ as much. Use five or more."),
    ],
)
def test_headlines(kinds, seeds, headline) -> None:
    assert words_of(arms(*kinds), seeds)["headline"] == headline


def test_guessing_is_no_result() -> None:
    assert "much more than guessing" in words_of(arms("better", accuracy=0.14), 3)["headline"]
    assert "much more than guessing" not in words_of(arms("better", accuracy=0.16), 3)["headline"]


def test_lines_say_how_much_and_how_sure() -> None:
    words = words_of(arms("better", "worse", "not settled"), 3)
    assert words["lines"] == [
        {"arm": "arm0", "text": "arm0: better than softmax by 2.0 points (interval +1.0 to +3.0)."},
        {"arm": "arm1", "text": "arm1: worse than softmax by 3.0 points (interval −5.0 to −1.0)."},
        {"arm": "arm2", "text": "arm2: not settled (+0.5 points, interval −2.0 to +3.0)."},
    ]
    assert words["resolution"] == pytest.approx(0.02), "the median of the half-widths 1, 2 and 2.5 points"
    alone = words_of(arms("one seed"), 1)
    assert alone["lines"] == [{"arm": "arm0", "text": "arm0: +2.0 points from one seed, which is not conclusive."}]
    assert alone["resolution"] is None


@pytest.mark.case("N4")
def test_what_is_probable_is_said_where_it_is_not_settled() -> None:
    (softmax, arm) = arms("not settled")
    arm |= {"leaning": "worse", "seeds_to_settle": 7}
    arm["difference"]["by_seed"] = [-0.001, -0.002, -0.05]
    words = words_of([softmax, arm], 3)
    assert words["headline"] == "No attention compared was shown to be better or worse than softmax attention; arm0 is probably worse."
    assert words["lines"][0]["text"] == (
        "arm0: not settled, probably worse than softmax (+0.5 points, interval −2.0 to +3.0); all 3 seeds were below softmax; "
        "if it is as large as it looks, 7 seeds would most likely settle it."
    )


def test_a_rival_with_as_many_parameters_has_a_line() -> None:
    softmax, arm = arms("better")
    arm["rival"] = {"name": "softmax-wide", **compared("worse")}
    lines = words_of([softmax, arm], 3)["lines"]
    assert len(lines) == 2
    assert lines[1]["text"].startswith("arm0 against softmax-wide, its matched baseline (as many parameters): worse than softmax-wide by 3.0 points")


DEFAULT_RUN = {  # accuracies of a default comparison, three seeds; external's runs differ by twenty points among themselves
    "softmax": [0.8395, 0.8435, 0.8345],
    "softmax-wide": [0.8455, 0.8500, 0.8490],
    "denoising": [0.8420, 0.8380, 0.8285],
    "denoising-equal": [0.8295, 0.8345, 0.8245],
    "external": [0.4720, 0.6880, 0.6160],
}
PAIRS = [(name, "softmax") for name in list(DEFAULT_RUN)[1:]] + [("denoising", "softmax-wide")]


@pytest.mark.case("N4", "R3")
def test_a_large_loss_is_never_no_difference() -> None:
    """Twenty-five points below on every seed, but so unsteady that three seeds do not settle it."""
    pool, found = compare_pairs(DEFAULT_RUN, PAIRS)
    external = found[3]
    assert pool.left_out == ["external"]
    assert (external.verdict, external.leaning) == ("not settled", "worse")
    assert 4 <= external.seeds_to_settle <= 8
    wide = compare_pairs({"softmax": [0.84, 0.85, 0.83], "bad": [0.59, 0.61, 0.57]}, [("bad", "softmax")])[1][0]
    assert wide.verdict == "worse", "and a steady one is settled"


def test_intervals_are_those_of_the_two_way_model_by_hand() -> None:
    """Residuals after variant and seed means, solved as a least-squares fit with dummies, which shares no line with the code."""
    names = list(DEFAULT_RUN)[:4]
    y = np.array([DEFAULT_RUN[name] for name in names]).ravel()
    rows = [(variant, seed) for variant in range(4) for seed in range(3)]
    design = np.array([[*(variant == v for v in range(4)), *(seed == s for s in (1, 2))] for variant, seed in rows], float)
    solution, (rss,), _, _ = np.linalg.lstsq(design, y, rcond=None)
    covariance = rss / (12 - 6) * np.linalg.inv(design.T @ design)
    pool, found = compare_pairs(DEFAULT_RUN, PAIRS)
    assert pool.deviation == pytest.approx((rss / 6) ** 0.5)
    assert pool.degrees == 6
    for (name, other), got in zip(PAIRS, found, strict=True):
        if "external" in (name, other):
            continue
        contrast = np.array([(n == name) - (n == other) for n in names] + [0, 0], float)
        half = stats.t.ppf(1 - 0.05 / 2 / len(PAIRS), 6) * (contrast @ covariance @ contrast) ** 0.5
        assert (got.difference.mean, got.difference.low, got.difference.high) == pytest.approx(
            (contrast @ solution, contrast @ solution - half, contrast @ solution + half)
        )


def test_two_variants_alone_are_the_paired_t_test() -> None:
    ours, baseline = [0.71, 0.82, 0.90, 0.75], [0.70, 0.80, 0.89, 0.76]
    _, (got,) = compare_pairs({"a": ours, "b": baseline}, [("a", "b")])
    want = stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    assert (got.difference.low, got.difference.high) == pytest.approx((want.low, want.high))
    assert (got.paired.low, got.paired.high) == pytest.approx((want.low, want.high))


def test_one_seed_and_equal_runs_settle_nothing() -> None:
    _, (alone,) = compare_pairs({"a": [0.9], "b": [0.1]}, [("a", "b")])
    assert (alone.verdict, alone.difference.low, alone.leaning) == ("one seed", None, None)
    _, found = compare_pairs({name: [0.5, 0.6, 0.7] for name in "abc"}, [("a", "c"), ("b", "c")])
    assert {one.verdict for one in found} == {"not settled"}


@pytest.mark.case("R3")
@pytest.mark.parametrize(("variants", "seeds"), [(5, 3), (5, 2), (4, 6), (2, 3)])
def test_reports_without_any_difference_raise_few_false_alarms(variants, seeds) -> None:
    """2,000 reports of noise alone, with a comparison against the rival beside those with the baseline. Uncorrected, a fifth of them would claim something."""
    generator = np.random.default_rng(0)
    alarms = plain = 0
    pairs = [(f"v{n}", "v0") for n in range(1, variants)] + ([("v2", "v1")] if variants > 2 else [])
    for _ in range(2000):
        table = generator.normal(size=(variants, seeds)) + 3 * generator.normal(size=seeds)
        _, found = compare_pairs({f"v{n}": row for n, row in enumerate(table)}, pairs)
        alarms += any(one.verdict != "not settled" for one in found)
        plain += any(one.paired.low > 0 or one.paired.high < 0 for one in found)
    assert alarms / 2000 < 0.065, "5 % and three standard errors"
    if variants > 2:
        assert plain / 2000 > 0.12, "or the test could not see a missing correction"


@pytest.mark.case("R3")
def test_differences_that_are_there_are_found() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(0, 0.005, (4, 6)) + generator.normal(0, 0.01, 6)
    base[3] += 0.03
    _, found = compare_pairs({f"v{n}": row for n, row in enumerate(base)}, [(f"v{n}", "v0") for n in (1, 2, 3)])
    assert found[2].verdict == "better"


def test_an_unsteady_variant_stays_out_of_the_pool() -> None:
    generator = np.random.default_rng(2)
    table = {f"v{n}": generator.normal(0, 1, 8) for n in range(4)} | {"wild": generator.normal(0, 30, 8)}
    pool = pool_residuals(table)
    assert pool.left_out == ["wild"]
    assert pool.deviation < 2


def test_where_smaller_is_better_below_is_better() -> None:
    error = PrimaryMetric("accuracy", "error", larger_is_better=False, scale=1.0, unit="px", step="px", decimals=3)
    assert verdict(Estimate(-0.2, -0.3, -0.1), larger_is_better=False) == "better"
    assert verdict(Estimate(0.2, 0.1, 0.3), larger_is_better=False) == "worse"
    assert verdict(Estimate(0.0, -0.1, 0.1), larger_is_better=False) == "not settled"
    none, arm = arms("worse")
    none["name"] = "none"
    arm["verdict"] = verdict(Estimate(-0.03, -0.05, -0.01), larger_is_better=False)
    words = words_of([none, arm], 3, error, "none")
    assert words["lines"][0]["text"] == "arm0: better than the network without attention by 0.030 px (interval −0.050 to −0.010)."
    assert words["headline"] == "Of 1 attentions compared with the network without attention, 1 is better."
