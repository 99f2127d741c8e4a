"""Latents of drawn images: the distribution that was asked for, by numbers of their own, and no number that is none."""

import math

import pytest
import torch

from foveal import InputError
from foveal.lab.data import seed_of
from foveal.lab.tasks._latents import Latents

MANY = 40_000


@pytest.mark.parametrize("bound", [1e-300, 1e-6, 0.02, 0.5, 0.7, 2.0, 3.5])
def test_truncated_latents_are_of_the_truncated_normal_distribution(bound) -> None:
    """Kolmogorov and Smirnov against scipy's; and entries within the bound stay where they are."""
    stats = pytest.importorskip("scipy.stats")
    plain, cut = Latents(MANY).draw(0, "sample", 3), Latents(MANY, truncation=bound).draw(0, "sample", 3)
    assert cut.dtype == torch.float32
    assert cut.abs().max() <= bound * (1 + 1e-6)
    inside = plain.abs() <= bound
    assert torch.equal(cut[inside], plain[inside]), "only what lies beyond is drawn again"
    assert not inside.all()
    if bound < 1e-30:
        return  # single precision has no numbers between that and 0
    assert stats.kstest(cut.double().numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 0.01
    again = cut[~inside]
    if len(again) > 1000:
        assert stats.kstest(again.double().numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 0.01, "what was drawn again too"


def test_a_truncation_beyond_all_entries_and_a_scale_of_one_change_nothing() -> None:
    plain = Latents(128).draw(4, "sample", 9)
    for bound in (10.0, 100.0, 1e300):
        assert torch.equal(Latents(128, truncation=bound, scale=1.0).draw(4, "sample", 9), plain)
    assert torch.equal(plain, torch.randn(128, generator=torch.Generator().manual_seed(seed_of(4, "sample", 9)))), "as before there were either"


def test_latents_are_scaled_behind_the_truncation() -> None:
    cut = Latents(500, truncation=0.7).draw(1)
    torch.testing.assert_close(Latents(500, truncation=0.7, scale=2.0).draw(1), 2 * cut, rtol=0, atol=0)
    assert Latents(500, truncation=0.7, scale=2.0).draw(1).abs().max() > 0.7


def test_each_follows_from_its_own_numbers() -> None:
    drawn = [Latents(64, truncation=0.5).draw(0, "sample", place) for place in range(6)]
    torch.manual_seed(99)
    for place in (3, 0, 5):
        assert torch.equal(Latents(64, truncation=0.5).draw(0, "sample", place), drawn[place])
    assert len(torch.stack(drawn).unique(dim=0)) == 6
    assert not torch.equal(Latents(64, truncation=0.5).draw(1, "sample", 0), drawn[0])


def test_the_smallest_number_there_is_draws_at_once() -> None:
    """A loop that draws until all lies within would not end."""
    assert Latents(128, truncation=math.ulp(0.0)).draw(0).abs().max() < 1e-30


@pytest.mark.parametrize("value", [0.0, -0.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["truncation", "scale"])
def test_numbers_that_bound_or_scale_nothing_are_refused(name, value) -> None:
    with pytest.raises(InputError, match=rf"{'latent_scale' if name == 'scale' else name} must be above 0 and finite"):
        Latents(8, **{name: value})
