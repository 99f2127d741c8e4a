"""The plots of intervals and of cost against gain, read back from their artists: what is drawn is what the results say, on an axis that the close ones fill."""

import copy
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from foveal.lab.compare._colors import ARM_COLORS
from foveal.lab.compare._theme import VERDICT_COLORS
from foveal.lab.compare.gain import gain_panels
from foveal.lab.compare.intervals import interval_plot, reach

MARGIN = 0.01
METRIC = {"label": "accuracy", "step": "points", "scale": 100.0, "decimals": 1, "larger_is_better": True}


def one(arm: str, against: str, mean: float, half: float | None, verdict: str = "not settled", by_seed: tuple[float, ...] = ()) -> dict[str, Any]:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"arm": arm, "against": against, "difference": {"mean": mean, "low": low, "high": high, "by_seed": list(by_seed) or [mean]}, "verdict": verdict}


def arm(name: str, parameters: int, milliseconds: float, training_bytes: int = 0) -> dict[str, Any]:
    return {"name": name, "parameters": parameters, "macs": 10 * parameters, "milliseconds_per_image": milliseconds, "training_bytes": training_bytes}


CLOSE = [
    one("a", "base", 0.02, 0.005, "better", (0.018, 0.022)),
    one("b", "base", -0.004, 0.004, "equal", (-0.006, -0.002)),
    one("b", "a", -0.024, 0.01, "worse"),
]
FAR = one("c", "base", -0.4, 0.1, "worse", (-0.45, -0.35, -0.03))
RESULTS = {
    "arms": [arm("base", 100, 2.0), arm("a", 150, 1.0), arm("b", 80, 4.0), arm("c", 130, 3.0)],
    "comparisons": [*CLOSE, FAR],
    "metric": METRIC,
    "task": {},
    "statistics": {"margin": MARGIN},
}


def points(axes: Axes, markers: str) -> list[tuple[float, float, str, Any]]:
    """Single marks: across, up, marker, color."""
    found = [line for line in axes.lines if str(line.get_marker()) in markers.split() and len(line.get_xdata()) == 1]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0]), str(line.get_marker()), line.get_color()) for line in found]


def test_the_axis_is_as_long_as_the_close_ones_need() -> None:
    assert reach(CLOSE, MARGIN) == pytest.approx(1.08 * 0.034), "the farthest end of an interval"
    seeds = [one("a", "base", 0.0, 0.001, by_seed=(-0.05, 0.05))]
    assert reach(seeds, MARGIN) == pytest.approx(1.08 * 0.05), "a seed may be farther out"
    assert reach([one("a", "base", 0.001, None)], MARGIN) == pytest.approx(1.08 * 1.3 * MARGIN), "the margin is always in it"
    # the reaches are .025, .008, .034 and .5: .5 is more than four times their median
    assert reach([*CLOSE, FAR], MARGIN) == pytest.approx(1.08 * 0.034)
    near = one("c", "base", -0.1, 0.01)
    assert reach([*CLOSE, near], MARGIN) == pytest.approx(1.08 * 0.11), "less than four times the median is no outlier"


def test_every_comparison_has_its_interval_its_seeds_and_its_verdict() -> None:
    figure = interval_plot(RESULTS)
    (axes,) = figure.axes
    end = 100 * reach(RESULTS["comparisons"], MARGIN)
    assert axes.get_xlim() == pytest.approx((-end, end))
    assert "right is better" in axes.get_xlabel()
    for row, compared in enumerate(RESULTS["comparisons"]):
        difference, color = compared["difference"], VERDICT_COLORS[compared["verdict"]]
        spans = [line for line in axes.lines if list(line.get_ydata()) == [row, row] and len(line.get_xdata()) == 2]
        assert [line.get_color() for line in spans] == [color]
        want = np.clip([100 * difference["low"], 100 * difference["high"]], -end, end)
        np.testing.assert_allclose(spans[0].get_xdata(), want)
        dots = [line for line in axes.lines if len(line.get_ydata()) and np.allclose(line.get_ydata(), row + 0.2)]
        inside = [100 * seed for seed in difference["by_seed"] if abs(100 * seed) <= end]
        np.testing.assert_allclose(np.concatenate([line.get_xdata() for line in dots]) if dots else [], inside)
        texts = [text.get_text() for text in axes.texts if abs(text.get_position()[1] - (row - 0.34)) < 1e-9]
        mark = {"better": "▲", "worse": "▼", "equal": "="}[compared["verdict"]]
        assert texts == [f"{compared['arm']} − {compared['against']}", f"{mark} {compared['verdict']}"]
    # the primary one by its own mark, and those that lie on the axis by their mean
    means = {(round(x, 9), y): marker for x, y, marker, _ in points(axes, "D o") if float(y).is_integer()}
    assert means == {(2.0, 0): "D", (-0.4, 1): "o", (-2.4, 2): "o"}
    # the one beyond it by a sentence and by an arrow where its interval goes on, on the side where it does
    assert [text.get_text() for text in axes.texts if "beyond" in text.get_text()] == ["◀ −40.0; 2 of 3 seeds beyond the axis"]
    assert [(x, y) for x, y, _, _ in points(axes, "8")] == [(pytest.approx(-0.985 * end), 3)]
    assert not points(axes, "9")


def test_an_interval_that_goes_on_to_the_right_says_so_there() -> None:
    other = copy.deepcopy(RESULTS)
    other["comparisons"][-1] = one("c", "base", 0.4, 0.1, "better", (0.45, 0.35))
    other["metric"] = METRIC | {"larger_is_better": False}
    (axes,) = interval_plot(other).axes
    assert [text.get_text() for text in axes.texts if "beyond" in text.get_text()] == ["+40.0 ▶; 2 of 2 seeds beyond the axis"]
    assert len(points(axes, "9")) == 1
    assert not points(axes, "8")
    assert "left is better" in axes.get_xlabel()


def test_cost_is_beside_gain_against_the_baseline() -> None:
    figures = gain_panels(RESULTS)
    assert [figure.axes[0].get_xlabel() for figure in figures] == [f"{what}, % beyond base" for what in ("parameters", "multiply-adds", "time an image")], (
        "where nothing was measured there is no panel"
    )
    end = 100 * reach([CLOSE[0], CLOSE[1], FAR], MARGIN)
    costs = {"parameters": (50, -20, 30), "multiply-adds": (50, -20, 30), "time an image": (-50, 100, 50)}
    for figure, (what, beyond) in zip(figures, costs.items(), strict=True):
        (axes,) = figure.axes
        assert axes.get_ylim() == pytest.approx((-end, end))
        assert [(x, y) for x, y, _, _ in points(axes, "s")] == [(0, 0)], "the baseline"
        gains = [(round(x, 6), round(y, 6), color) for x, y, _, color in points(axes, "o")]
        # of b the gain over the baseline, and not what it lacks to a
        assert gains == [(beyond[0], 2.0, ARM_COLORS[1]), (beyond[1], -0.4, ARM_COLORS[2])], what
        assert [(x, y) for x, y, _, _ in points(axes, "v")] == [(pytest.approx(beyond[2]), pytest.approx(-0.97 * end))], "beyond the axis, downwards"
        assert not points(axes, "^")
        spans = {line.get_color(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2}
        assert spans[ARM_COLORS[1]] == pytest.approx([1.5, 2.5])
        assert spans[ARM_COLORS[3]] == pytest.approx([-end, max(-30, -end)])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "a", "b", "c: −40.0"]
    up = copy.deepcopy(RESULTS)
    up["comparisons"][-1] = one("c", "base", 0.4, None)
    assert points(gain_panels(up)[0].axes[0], "^")
    assert gain_panels(RESULTS | {"comparisons": [CLOSE[2]]}) == []


def test_of_what_is_better_smaller_the_axis_says_where_better_lies() -> None:
    axes = gain_panels(RESULTS | {"metric": METRIC | {"larger_is_better": False}})[0].axes[0]
    assert axes.get_ylabel() == "difference, points; below is better"
    assert gain_panels(RESULTS)[0].axes[0].get_ylabel() == "gain, points"
