"""What is said of claims, against scipy's own tests, hand-made corrections, and simulations of what cannot be."""

import numpy as np
import pytest
from scipy import stats

from foveal.lab.study.judging import best_rate, holm, judge_claim, verdict_of

RNG = np.random.default_rng(5)
BETTER, LEVEL, NOISY = RNG.normal(1.0, 0.5, 8), RNG.normal(0.0, 0.002, 8), RNG.normal(0.3, 1.0, 8)


@pytest.mark.parametrize("values", [BETTER, -BETTER, NOISY])
@pytest.mark.parametrize("relation", ["greater", "less"])
def test_a_direction_has_the_two_sided_p_of_the_paired_test(values, relation) -> None:
    found = judge_claim(values, relation, margin=0.02)
    wanted = stats.ttest_1samp(values, 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    one_sided = stats.ttest_1samp(values, 0.0, alternative=relation).pvalue
    assert found.p == pytest.approx(min(1.0, 2 * one_sided))
    assert found.seeds_for == sum(values > 0 if relation == "greater" else values < 0)


def test_equality_is_two_one_sided_tests_at_the_margin() -> None:
    for values, margin in ((LEVEL, 0.02), (NOISY, 0.02), (NOISY, 5.0), (BETTER, 0.5)):
        found = judge_claim(values, "equal", margin)
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert found.p == pytest.approx(max(above, below))
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
        assert (found.p < 0.05) == (-margin < low and high < margin), "which is the same as an interval of 90 % inside"


def test_outcomes() -> None:
    def outcome(values, relation, margin=0.02, corrected=None) -> str:
        found = judge_claim(values, relation, margin)
        return verdict_of([found], found.p if corrected is None else corrected, 0.05).outcome

    assert outcome(BETTER, "greater") == "held"
    assert outcome(BETTER, "greater", corrected=0.051) == "not settled"
    assert outcome(BETTER, "less") == "refuted"
    assert outcome(LEVEL, "greater") == "refuted", "they are equal within the margin"
    assert outcome(NOISY, "greater") == "not settled"
    assert outcome(LEVEL, "equal") == outcome(LEVEL, "at limit") == "held"
    assert outcome(BETTER, "equal") == "refuted"
    assert outcome(NOISY, "equal") == "not settled"
    both = [judge_claim(BETTER, "greater", 0.02), judge_claim(NOISY, "greater", 0.02)]
    assert verdict_of(both, max(one.p for one in both), 0.05).outcome == "not settled", "one claim of two is not enough"


def test_runs_that_do_not_differ_at_all() -> None:
    nothing, always = [0.0] * 5, [0.3] * 5
    assert judge_claim(nothing, "greater", 0.02).p == 1
    assert judge_claim(nothing, "equal", 0.02).p == 0
    assert judge_claim(always, "greater", 0.02).p == 0
    assert judge_claim(always, "less", 0.02).p == 1
    assert judge_claim(always, "less", 0.02).refuted


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001]) == pytest.approx([0.5, 0.002])
    # two of four: the others count as if they had shown nothing
    assert holm([0.01, 0.02], 4) == pytest.approx([0.04, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_nothing_is_found_where_there_is_nothing() -> None:
    """The share of studies of three claims in which one is held although no arm differs, here 5 % at the most."""
    rng, wrong, studies = np.random.default_rng(1), 0, 1500
    for _ in range(studies):
        p = [judge_claim(rng.normal(size=8), "greater", 0.0).p for _ in range(3)]
        wrong += min(holm(p)) < 0.05
    assert 0.005 < wrong / studies < 0.05, "one-sided in effect, so half of what is allowed"


def test_a_difference_is_detectable_in_four_of_five() -> None:
    rng, seen = np.random.default_rng(2), []
    spread = np.mean([judge_claim(rng.normal(size=12), "greater", 0.0).detectable for _ in range(300)])
    for _ in range(800):
        seen.append(judge_claim(rng.normal(spread, 1, 12), "greater", 0.0).p < 0.05)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.05)


def test_the_best_rate_and_the_lower_of_equal_ones() -> None:
    tried = {0.03: [0.2, 0.2], 0.003: [0.1, 0.3], 0.01: [0.9, 0.9]}
    assert best_rate(tried, larger_is_better=False) == 0.003
    assert best_rate(tried, larger_is_better=True) == 0.01
    assert best_rate({0.1: [float("inf")], 0.2: [0.5]}, larger_is_better=False) == 0.2
