"""Reports where nothing differs, made of residuals that runs left: how often headline, verdicts and JSON claim something."""

import re

import numpy as np
import pytest

from foveal.lab.compare import statistics, together
from foveal.lab.compare.judging import Judged
from foveal.lab.compare.power import stored_residuals
from foveal.lab.compare.results import _comparisons
from foveal.lab.compare.sequential import rate_of_a_look
from foveal.lab.compare.statistics import Rates, compare_pairs
from foveal.lab.compare.words import verdict_words
from foveal.lab.tasks import Classification

REPORTS = 2000
MARGIN = 0.01
VARIANTS, SEEDS = 5, 6


def alarms(variants: int, seeds: int, reports: int = REPORTS, *, generator: np.random.Generator | None = None) -> dict[str, float]:
    """Share of reports in which headline, lines or JSON call anything better or worse; residuals are drawn with replacement from those that are stored."""
    generator = generator or np.random.default_rng(0)
    residuals = np.array(stored_residuals()["residuals"]).ravel()
    names = ["softmax", *(f"v{n}" for n in range(1, variants))]
    pairs = [("v1", "v2"), *((name, "softmax") for name in names[1:])] if variants > 2 else [("v1", "softmax")]
    arms = [{"name": name, "metrics": {"accuracy": {"mean": 0.8}}} for name in names]
    claims = dict.fromkeys(("headline", "verdicts", "json", "primary", "plain"), 0)
    for _ in range(reports):
        # what a seed adds to all variants must not matter
        table = 0.8 + generator.choice(residuals, (variants, seeds)) + 0.02 * generator.standard_normal(seeds)
        pool, found = compare_pairs(dict(zip(names, table, strict=True)), pairs, margin=MARGIN)
        rows = _comparisons(Judged(pairs, found, pool, None, MARGIN, Rates(), []))
        words = verdict_words(rows, arms, seeds, Classification.primary_metric, 0.1, MARGIN)
        claims["headline"] += bool(re.search(r"is (better|worse) than|\d (better|worse)", words["headline"]))
        claims["verdicts"] += any(re.search(r"is (better|worse) than", line["text"]) or line["mark"] in "▲▼" for line in words["lines"])
        claims["json"] += any(row["verdict"] in ("better", "worse") for row in rows)
        claims["primary"] += found[0].verdict in ("better", "worse")
        claims["plain"] += any(one.paired.low > 0 or one.paired.high < 0 for one in found)
    return {name: count / reports for name, count in claims.items()}


@pytest.mark.case("R3")
def test_a_report_of_nothing_claims_something_once_in_twenty() -> None:
    got = alarms(VARIANTS, SEEDS)
    for name in ("headline", "verdicts", "json"):
        assert got[name] == pytest.approx(0.05, abs=0.01), name
    assert got["primary"] == pytest.approx(0.025, abs=0.01)
    assert got["plain"] > 0.12, "or residuals could not show a missing correction"


@pytest.mark.case("R3")
def test_a_missing_correction_is_seen(monkeypatch) -> None:
    """The mutant: every comparison has the whole error rate."""
    monkeypatch.setattr(statistics, "bounds", lambda pairs, pooled, degrees, own, rate: [together._above(rate / 2, degrees)] * len(pairs))
    assert alarms(VARIANTS, SEEDS, 400)["verdicts"] > 0.10


@pytest.mark.case("R3")
@pytest.mark.slow
@pytest.mark.parametrize(("variants", "seeds"), [(5, 2), (5, 3), (4, 6), (2, 3), (8, 4)])
def test_whatever_the_size_of_the_report(variants, seeds) -> None:
    """Three standard errors; two seeds with their pool check are the hardest."""
    assert alarms(variants, seeds)["verdicts"] <= 0.065


def test_equality_is_claimed_wrongly_once_in_twenty() -> None:
    """A true difference of just the margin."""
    # two and a half standard errors, or the same difference would mostly be called one
    generator, wrong, margin = np.random.default_rng(1), 0, 0.006
    residuals = np.array(stored_residuals()["residuals"]).ravel()
    for _ in range(600):
        table = generator.choice(residuals, (3, 8))
        table[1] += margin
        _, found = compare_pairs(dict(zip("abc", table, strict=True)), [("b", "a")], margin=margin)
        wrong += found[0].verdict == "equal"
    assert 0.01 < wrong / 600 < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5


@pytest.mark.parametrize(("looks", "table"), [((4, 8), 0.0294), ((4, 8, 12), 0.0221), ((5, 10, 15, 20, 25), 0.0158)])
def test_looks_have_pococks_bound(looks, table) -> None:
    """Pocock 1977, table 1, for equal groups at 5 %."""
    assert rate_of_a_look(looks, 0.05) == pytest.approx(table, abs=1.5e-4)
    assert rate_of_a_look(looks[:1], 0.05) == 0.05


def test_three_looks_together_err_once_in_twenty() -> None:
    """20,000 comparisons of four variants without any difference, by t tests of the pooled spread; without the bound one in ten would be stopped."""
    from scipy.special import stdtr

    generator, looks = np.random.default_rng(0), (4, 8, 12)
    table = generator.standard_normal((20_000, 4, 12))
    p = []
    for seeds in looks:
        part = table[..., :seeds]
        residuals = part - part.mean(-1, keepdims=True) - part.mean(-2, keepdims=True) + part.mean((-1, -2), keepdims=True)
        degrees = 3 * (seeds - 1)
        spread = ((residuals**2).sum((-1, -2)) / degrees) ** 0.5
        t = (part[:, 1].mean(-1) - part[:, 0].mean(-1)) / (spread * (2 / seeds) ** 0.5)
        p.append(2 * stdtr(degrees, -np.abs(t)))
    least = np.min(p, 0)
    assert (least < rate_of_a_look(looks, 0.05)).mean() == pytest.approx(0.05, abs=0.006)
    assert (least < 0.05).mean() > 0.09
