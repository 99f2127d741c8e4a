"""Cost against resolution: what is measured, and what is foreseen and left alone."""

import json

import pytest

from foveal import InputError
from foveal.lab.compare import ResolutionPoint, cost_against_resolution, measure_resolution, resolution, resolution_figure


@pytest.fixture
def without_processes(monkeypatch) -> list[tuple]:
    """Memory as a function of name and side: a process for each would cost seconds."""
    asked = []

    def peak(prepare, name, side, channels) -> int:
        asked.append((name, side))
        return side ** (4 if name == resolution.MATERIALIZED else 2) * 4

    monkeypatch.setattr(resolution, "peak_memory", peak)
    return asked


def test_every_name_has_a_point_at_every_side_and_the_quadratic_one_stops(without_processes) -> None:
    seen = []
    points = cost_against_resolution(("softmax-materialized", "external_2d"), (4, 8, 16, 32, 64), channels=8, most_bytes=4 * 16**4, each=seen.append)
    assert points == seen
    assert [(point.name, point.side) for point in points] == [(name, side) for name in ("softmax-materialized", "external_2d") for side in (4, 8, 16, 32, 64)]
    stopped = {point.side: point.stopped for point in points if point.name == "softmax-materialized"}
    assert [bool(stopped[side]) for side in (4, 8, 16, 32, 64)] == [False, False, False, True, True]
    assert stopped[32] == f"about {4e-9 * 32**4:.3g} GB, of {4e-9 * 16**4:.3g} allowed"
    assert without_processes == [(point.name, point.side) for point in points if not point.stopped]
    assert all(point.seconds > 0 and point.bytes > 0 for point in points if not point.stopped)
    figure = resolution_figure(points)
    assert [line.get_label() for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")] == ["softmax-materialized", "external_2d"]
    crosses = [line for line in figure.axes[1].get_lines() if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() if hasattr(line.get_xdata(), "tolist") else list(line.get_xdata()) for line in crosses] == [[16]]


def test_what_was_measured_for_a_comparison_is_kept(without_processes, tmp_path) -> None:
    measure_resolution(["none", "softmax", "external_2d-slot", "linear_2d"], (4, 8), tmp_path)
    points = json.loads((tmp_path / "resolution.json").read_text())
    assert list(dict.fromkeys(point["name"] for point in points)) == ["softmax-materialized", "softmax", "linear_2d"]
    asked = len(without_processes)
    measure_resolution(["none", "softmax"], (4, 8), tmp_path)
    assert len(without_processes) == asked
    measure_resolution(["none", "softmax"], (4,), tmp_path)
    assert len(without_processes) == asked + 2


def test_time_is_foreseen_from_the_growth_seen() -> None:
    smaller = [ResolutionPoint("x", 8, 0.1, 1), ResolutionPoint("x", 16, 1.6, 4)]
    assert resolution._foreseen(32, smaller, 26.0, 1000) == ""
    assert resolution._foreseen(32, smaller, 25.0, 1000) == "about 25.6 s, of 25 allowed"
    assert resolution._foreseen(32, smaller[:1], 1.5, 1000) == "about 1.6 s, of 1.5 allowed", "of one size alone, by the area"


def test_materialized_maps_are_in_memory() -> None:
    """Measured, in processes of their own: a map of 48² by 48² pixels in float32 is 21 MB; without it there is next to nothing."""
    (fused, explicit) = cost_against_resolution(("softmax", "softmax-materialized"), (48,), channels=8)
    assert explicit.bytes > 48**4 * 4
    assert fused.bytes < explicit.bytes / 3


@pytest.mark.parametrize(("names", "sides"), [(("softmax",), (8, 4)), (("softmax",), ()), (("softmacs",), (4,))])
def test_what_cannot_be_measured_is_refused(names, sides) -> None:
    with pytest.raises(InputError):
        cost_against_resolution(names, sides)
