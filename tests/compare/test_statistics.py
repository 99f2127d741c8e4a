"""Intervals and words, against scipy and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from foveal.lab.compare.sampling import Sampling
from foveal.lab.compare.statistics import Estimate, compare_pairs, estimate, paired_difference, pool_residuals, verdict
from foveal.lab.compare.together import bounds
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


SPANS = {"better": [0.01, 0.02, 0.03], "worse": [-0.01, -0.03, -0.05], "equal": [-0.004, 0.0, 0.007], "not settled": [-0.02, 0.005, 0.03], "one seed": [0.02]}
MARGIN = 0.01


def compared(kind: str, arm: str = "arm0", against: str = "softmax", **more: Any) -> dict[str, Any]:
    """What is said of one comparison; the interval reaches from the lowest seed to the highest."""
    seeds = SPANS[kind]
    low, high = (min(seeds), max(seeds)) if len(seeds) > 1 else (None, None)
    difference = {"mean": sum(seeds) / len(seeds), "low": low, "high": high, "by_seed": seeds}
    return {"arm": arm, "against": against, "difference": difference, "verdict": kind, "likely": None, "seeds_to_settle": None} | more


def words_of(
    *kinds: str, seeds: int = 3, headline: PrimaryMetric = Classification.primary_metric, accuracy: float = 0.8, against: str = "softmax"
) -> dict[str, Any]:
    """Of softmax, and others that did as the words say."""
    arms = [{"name": name, "metrics": {"accuracy": {"mean": accuracy}}} for name in (against, *(f"arm{n}" for n in range(len(kinds))))]
    return verdict_words([compared(kind, f"arm{n}", against) for n, kind in enumerate(kinds)], arms, seeds, headline, 0.1, MARGIN)


@pytest.mark.parametrize(
    ("kinds", "seeds", "headline"),
    [
        ((), 3, "Only softmax has results, so there is nothing to compare it with."),
        (("not settled",), 3, "Whether arm0 differs from softmax is not settled (+0.5 points, −2.0 to +3.0)."),
        (("better", "not settled"), 3, "arm0 is better than softmax (+2.0 points, +1.0 to +3.0); of 1 other comparison 1 not settled."),
        (("equal", "worse", "worse"), 3, "arm0 equals softmax within 1.0 points (+0.1 points, −0.4 to +0.7); of 2 other comparisons 2 worse."),
        (("one seed",), 1, "One seed is not conclusive: a second run of the same attention may differ as much. Use five or more."),
    ],
)
def test_headlines(kinds, seeds, headline) -> None:
    assert words_of(*kinds, seeds=seeds)["headline"] == headline


def test_guessing_is_no_result() -> None:
    assert "much more than guessing" in words_of("better", accuracy=0.14)["headline"]
    assert "much more than guessing" not in words_of("better", accuracy=0.16)["headline"]


def test_lines_say_how_much_how_sure_and_with_a_mark() -> None:
    words = words_of("better", "worse", "equal")
    assert [line["text"] for line in words["lines"]] == [
        "arm0 is better than softmax by 2.0 points (interval +1.0 to +3.0).",
        "arm1 is worse than softmax by 3.0 points (interval −5.0 to −1.0).",
        "arm2 equals softmax within 1.0 points (+0.1 points, interval −0.4 to +0.7).",
    ]
    assert [(line["mark"], line["verdict"], line["primary"]) for line in words["lines"]] == [
        ("▲", "better", True),
        ("▼", "worse", False),
        ("=", "equal", False),
    ]
    assert words["resolution"] == pytest.approx(0.01), "of the primary comparison"
    alone = words_of("one seed", seeds=1)
    assert alone["lines"][0]["text"] == "arm0 against softmax: +2.0 points from one seed, which is not conclusive."
    assert alone["resolution"] is None


@pytest.mark.case("N4")
def test_what_is_likely_is_said_where_it_is_not_settled() -> None:
    one = compared("not settled", likely={"better": 0.1, "equal": 0.2, "worse": 0.7}, seeds_to_settle=7)
    one["difference"]["by_seed"] = [-0.001, -0.002, -0.05]
    (line,) = verdict_words([one], [{"name": "softmax", "metrics": {"accuracy": {"mean": 0.8}}}], 3, Classification.primary_metric, 0.1, MARGIN)["lines"]
    assert line["text"] == (
        "arm0 against softmax: not settled (+0.5 points, interval −2.0 to +3.0); all 3 seeds were below; most likely worse by more than 1.0 points "
        "(70% by itself); 7 seeds would settle it in four cases of five, were it as large as it looks."
    )


DEFAULT_RUN = {  # accuracies of a default comparison, three seeds; external's runs differ by twenty points among themselves
    "softmax": [0.8395, 0.8435, 0.8345],
    "softmax-wide": [0.8455, 0.8500, 0.8490],
    "denoising": [0.8420, 0.8380, 0.8285],
    "denoising-equal": [0.8295, 0.8345, 0.8245],
    "external": [0.4720, 0.6880, 0.6160],
}
PAIRS = [("denoising", "softmax-wide")] + [(name, "softmax") for name in list(DEFAULT_RUN)[1:]]


def judged(values: dict[str, Any], pairs: list[tuple[str, str]], margin: float = MARGIN, **options: Any) -> tuple[Any, Any]:
    return compare_pairs(values, pairs, margin=margin, **options)


def test_the_largest_of_many_are_named_and_the_others_counted() -> None:
    rows = [compared("not settled", f"arm{n}") for n in range(8)]
    for n, row in enumerate(rows):
        row["difference"] = row["difference"] | {"mean": 0.01 * n * (-1) ** n}
    arms = [{"name": name, "metrics": {"accuracy": {"mean": 0.8}}} for name in ("softmax", *(row["arm"] for row in rows))]
    headline = verdict_words(rows, arms, 3, Classification.primary_metric, 0.1, MARGIN)["headline"]
    said = "(among them arm4 at +4.0 points, arm5 at −5.0 points, arm6 at +6.0 points, arm7 at −7.0 points)."
    assert headline.endswith(f"of 7 other comparisons 7 not settled {said}"), "three times the margin is not beyond it"
    rows[3]["difference"]["mean"] = -0.035
    headline = verdict_words(rows, arms, 3, Classification.primary_metric, 0.1, MARGIN)["headline"]
    assert headline.endswith(said.replace(").", ", and 1 more beyond 3.0 points)."))


@pytest.mark.case("N4", "R3")
def test_a_large_loss_is_never_no_difference() -> None:
    """Twenty-five points below on every seed, but so unsteady that three seeds do not settle it."""
    pool, found = judged(DEFAULT_RUN, PAIRS)
    external = found[4]
    assert pool.left_out == ["external"]
    assert external.verdict == "not settled"
    assert external.likely.worse > 0.9
    assert 4 <= external.seeds_to_settle <= 8
    arms = [{"name": name, "metrics": {"accuracy": {"mean": 0.8}}} for name in DEFAULT_RUN]
    rows = [
        compared("not settled", *pair) | {"difference": vars(one.difference) | {"by_seed": one.by_seed}, "verdict": one.verdict}
        for pair, one in zip(PAIRS, found, strict=True)
    ]
    assert "external at −24.7 points" in verdict_words(rows, arms, 3, Classification.primary_metric, 0.1, MARGIN)["headline"]
    wide = judged({"softmax": [0.84, 0.85, 0.83], "bad": [0.59, 0.61, 0.57]}, [("bad", "softmax")])[1][0]
    assert wide.verdict == "worse", "and a steady one is settled"


def test_errors_are_those_of_the_two_way_model_by_hand() -> None:
    """Residuals after variant and seed means, by least squares with dummies."""
    names = list(DEFAULT_RUN)[:4]
    pairs = [pair for pair in PAIRS if "external" not in pair]
    y = np.array([DEFAULT_RUN[name] for name in names]).ravel()
    rows = [(variant, seed) for variant in range(4) for seed in range(3)]
    design = np.array([[*(variant == v for v in range(4)), *(seed == s for s in (1, 2))] for variant, seed in rows], float)
    solution, (rss,), _, _ = np.linalg.lstsq(design, y, rcond=None)
    covariance = rss / (12 - 6) * np.linalg.inv(design.T @ design)
    pool, found = judged({name: DEFAULT_RUN[name] for name in names}, pairs)
    assert pool.deviation == pytest.approx((rss / 6) ** 0.5)
    assert pool.degrees == 6
    contrasts = np.array([[(n == name) - (n == other) for n in names] + [0, 0] for name, other in pairs], float)
    errors = np.diag(contrasts @ covariance @ contrasts.T) ** 0.5
    ends = [(one.difference.high - one.difference.mean) / error for one, error in zip(found, errors, strict=True)]
    assert [one.difference.mean for one in found] == pytest.approx(contrasts @ solution)
    assert ends[0] == pytest.approx(stats.t.isf(0.0125, 6), rel=1e-6), "the primary comparison has half of the error rate"
    assert ends[1:] == pytest.approx([ends[1]] * 3)
    # tables without any difference, judged by least squares again: how often is any t beyond its bound?
    tables = np.random.default_rng(5).standard_normal((100_000, 12))
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    spread = (((tables - tables @ hat) ** 2).sum(1) / 6) ** 0.5
    t = np.abs(tables @ np.linalg.pinv(design).T @ contrasts.T) / (spread[:, None] * (2 / 3) ** 0.5)
    assert (t > np.array(ends)).any(1).mean() == pytest.approx(0.05, abs=0.003), "all intervals hold together in 95 of 100 reports"


def test_comparisons_with_one_control_have_dunnetts_bound() -> None:
    """By scipy's multivariate t, with the correlation of one half that comparisons with one control have."""
    first, second = bounds([("a", "c"), ("b", "c")], [True, True], 8, 4, 0.05)
    assert first == pytest.approx(stats.t.isf(0.0125, 8))
    inside = stats.multivariate_t(shape=[[1, 0.5], [0.5, 1]], df=8, seed=0).cdf([first, second], lower_limit=[-first, -second])
    assert inside == pytest.approx(0.95, abs=0.002)
    assert bounds([("a", "c")], [True], 8, 4, 0.05) == pytest.approx([stats.t.isf(0.025, 8)])
    assert bounds([("a", "c"), ("x", "c"), ("b", "c")], [True, False, True], 8, 4, 0.05)[1] == pytest.approx(stats.t.isf(0.05 / 4 / 2, 4))


def test_two_variants_alone_are_the_paired_t_test() -> None:
    ours, baseline = [0.71, 0.82, 0.90, 0.75], [0.70, 0.80, 0.89, 0.76]
    _, (got,) = judged({"a": ours, "b": baseline}, [("a", "b")])
    want = stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    assert (got.difference.low, got.difference.high) == pytest.approx((want.low, want.high))
    assert (got.paired.low, got.paired.high) == pytest.approx((want.low, want.high))


@pytest.mark.parametrize("shift", [0.0, 0.002, 0.006, 0.009])
def test_equal_is_what_two_one_sided_tests_say(shift) -> None:
    """scipy's one-sided tests against both margins, at 5 % each."""
    ours = np.array([0.71, 0.821, 0.903, 0.752]) + shift
    baseline = np.array([0.711, 0.82, 0.90, 0.754])
    above = stats.ttest_1samp(ours - baseline, -MARGIN, alternative="greater").pvalue
    below = stats.ttest_1samp(ours - baseline, MARGIN, alternative="less").pvalue
    _, (got,) = judged({"a": ours, "b": baseline}, [("a", "b")])
    assert (got.verdict == "equal") == (max(above, below) < 0.05 and got.difference.low <= 0 <= got.difference.high)
    assert (got.verdict == "equal") is (shift < 0.006)


def test_one_seed_and_equal_runs() -> None:
    _, (alone,) = judged({"a": [0.9], "b": [0.1]}, [("a", "b")])
    assert (alone.verdict, alone.difference.low, alone.likely) == ("one seed", None, None)
    _, found = judged({name: [0.5, 0.6, 0.7] for name in "abc"}, [("a", "c"), ("b", "c")])
    assert {one.verdict for one in found} == {"equal"}


@pytest.mark.case("R3")
def test_differences_that_are_there_are_found() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(0, 0.005, (4, 6)) + generator.normal(0, 0.01, 6)
    base[3] += 0.03
    _, found = judged({f"v{n}": row for n, row in enumerate(base)}, [(f"v{n}", "v0") for n in (1, 2, 3)])
    assert found[2].verdict == "better"


def test_an_unsteady_variant_stays_out_of_the_pool() -> None:
    generator = np.random.default_rng(2)
    table = {f"v{n}": generator.normal(0, 1, 8) for n in range(4)} | {"wild": generator.normal(0, 30, 8)}
    pool = pool_residuals(table)
    assert pool.left_out == ["wild"]
    assert pool.deviation < 2
    assert pool.ratios["wild"] > pool.most >= 9


def test_a_test_set_in_common_widens_the_interval() -> None:
    values = {"a": [0.71, 0.82, 0.90, 0.75], "b": [0.70, 0.80, 0.89, 0.76]}
    _, (without,) = judged(values, [("a", "b")])
    _, (found,) = judged(values, [("a", "b")], samplings=[Sampling(0.03, 0.04, 0.0, 0.0)])
    half, wider = without.difference.high - without.difference.mean, found.difference.high - found.difference.mean
    assert wider == pytest.approx((half**2 + (stats.t.isf(0.025, 3) * 0.03) ** 2) ** 0.5)
    assert (found.paired.low, found.paired.high) == (without.paired.low, without.paired.high)


def test_where_smaller_is_better_below_is_better() -> None:
    error = PrimaryMetric("accuracy", "error", larger_is_better=False, scale=1.0, unit="px", step="px", decimals=3)
    assert verdict(Estimate(-0.2, -0.3, -0.1), larger_is_better=False) == "better"
    assert verdict(Estimate(0.2, 0.1, 0.3), larger_is_better=False) == "worse"
    assert verdict(Estimate(0.0, -0.1, 0.1), larger_is_better=False) == "not settled"
    _, (found,) = judged({"a": [0.3, 0.31, 0.29], "b": [0.5, 0.52, 0.49]}, [("a", "b")], larger_is_better=False)
    assert found.verdict == "better"
    assert found.likely.better > 0.99
    words = verdict_words([compared("worse", against="none") | {"verdict": "better"}], [{"name": "none", "metrics": {}}], 3, error, None, MARGIN)
    assert words["lines"][0]["text"] == "arm0 is better than the network without attention by 0.030 px (interval −0.050 to −0.010)."
    assert words["headline"] == "arm0 is better than the network without attention (−0.030 px, −0.050 to −0.010)."
