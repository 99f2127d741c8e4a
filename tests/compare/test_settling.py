"""How often verdicts come, foretold and counted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from foveal import InputError
from foveal.lab.compare import make_plan
from foveal.lab.compare.power import expected_spread, power_lines, stored_residuals
from foveal.lab.compare.settling import Noise, chances, seeds_to_settle, smallest_seen
from foveal.lab.compare.statistics import compare_pairs
from foveal.lab.data import ShiftStereo
from foveal.lab.recipes import get_recipe
from foveal.models import ViT
from tests.training.helpers import tiny


@pytest.mark.parametrize(("effect", "seeds"), [(0.0, 6), (0.008, 6), (-0.012, 3), (0.005, 12)])
def test_foretold_verdicts_are_those_that_come(effect, seeds) -> None:
    noise = Noise(0.0065, 1, 0.05, 0.05, 0.01)
    want = chances(noise, effect, (seeds,))
    generator, counts = np.random.default_rng(0), dict.fromkeys(("better", "worse", "equal", "not settled"), 0)
    for by_seed in effect + 0.0065 * generator.standard_normal((1000, seeds)):
        counts[compare_pairs({"a": by_seed, "b": np.zeros(seeds)}, [("a", "b")], margin=0.01)[1][0].verdict] += 1
    for name, share in (("better", want.above[0]), ("worse", want.below[0]), ("equal", want.equal[0])):
        assert counts[name] / 1000 == pytest.approx(share, abs=0.045), name


def test_power_of_the_paired_t_test_is_that_of_the_noncentral_t() -> None:
    for sd, seeds in ((0.005, 3), (0.0075, 5), (0.01, 10)):
        want = stats.nct.sf(stats.t.isf(0.025, seeds - 1), seeds - 1, 0.01 / sd * seeds**0.5)
        assert chances(Noise(sd, 1, 0.05, 0.05, 0.0), 0.01, (seeds,)).above[0] == pytest.approx(want, abs=0.02)


def test_more_seeds_settle_less_and_a_common_test_may_never() -> None:
    noise = Noise(0.0065, 3, 0.05, 0.05, 0.01)
    assert seeds_to_settle(noise, 0.02) < seeds_to_settle(noise, 0.006)
    assert smallest_seen(noise, 12) < smallest_seen(noise, 4)
    assert seeds_to_settle(replace(noise, shared=0.02), 0.0) is None


def test_power_is_said_of_what_is_known() -> None:
    plan = make_plan(get_recipe("cluttered-digits"), seeds=6)
    lines = power_lines(plan)
    assert lines[0].startswith("primary comparison: denoising − softmax-wide; 4 more; spread from seed to seed that is expected: ")
    assert stored_residuals()["about"] in lines[0]
    assert "with 6 seeds differences below" in lines[1]
    assert "equality within it" in lines[1]
    looks = power_lines(make_plan(get_recipe("cluttered-digits"), looks=(4, 8, 12)))
    assert [line.split()[1] for line in looks[1:4]] == ["4", "8", "12"]
    assert "p < 0.022," in looks[-1]
    other = make_plan(get_recipe("digits"), seeds=3)
    assert expected_spread(other) == (0.01, "an assumption")
    assert "an assumption" in power_lines(other)[0]
    stereo = make_plan(get_recipe("shift-stereo"), seeds=3)
    assert isinstance(stereo.recipe.data, ShiftStereo)
    assert expected_spread(stereo) is None
    assert "× that spread" in power_lines(stereo)[1], "nobody knows the spread in pixels, so it is said in its own size"
    assert power_lines(make_plan(tiny(model=ViT()), seeds=1)) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"looks": (1, 4)}, "looks at numbers of seeds that grow, from 2 on"),
        ({"looks": (8, 4)}, "grow"),
        ({"margin": 0.0}, "margin must be above 0"),
        ({"margin": float("nan")}, "margin must be above 0"),
        ({"primary": ("external",)}, "external is not compared"),
        ({"primary": ("denoising", "denoising")}, "expected two attentions"),
        ({"primary": ("denoising", "softmax", "softmax-wide")}, "expected two attentions"),
    ],
)
def test_what_cannot_be_declared_is_refused(options, says) -> None:
    with pytest.raises(InputError, match=says):
        make_plan(tiny(model=ViT()), ("denoising", "softmax-wide"), **options)


def test_the_primary_comparison_comes_first_and_none_twice() -> None:
    recipe = tiny(model=ViT())
    assert make_plan(recipe, ("denoising", "softmax-wide")).pairs() == [("denoising", "softmax-wide"), ("denoising", "softmax"), ("softmax-wide", "softmax")]
    assert make_plan(recipe, ("external", "denoising")).pairs() == [("external", "softmax"), ("denoising", "softmax")]
    assert make_plan(recipe, ("external", "denoising"), primary=("denoising",)).pairs() == [("denoising", "softmax"), ("external", "softmax")]
    assert make_plan(recipe, ("external", "denoising"), primary=("denoising", "external")).pairs()[0] == ("denoising", "external")
