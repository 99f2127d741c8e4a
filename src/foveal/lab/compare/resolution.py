"""What mixing pixels costs as maps grow, mechanism by mechanism, up to where one stops fitting."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.ticker
import torch
from matplotlib.figure import Figure
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..._errors import InputError
from ...analysis import peak_memory
from ...models import list_feature_mixers, make_feature_mixer
from ..training import read_json, write_json
from ..training.reading import Damaged
from ._colors import ARM_COLORS

__all__ = ["MATERIALIZED", "ResolutionPoint", "check_sides", "cost_against_resolution", "measure_resolution", "read_points", "resolution_figure"]

MATERIALIZED = "softmax-materialized"
"""Softmax attention whose map of pixels by pixels lies in memory, as it did before fused kernels."""
_MOST_ROUNDS, _ENOUGH_SECONDS = 5, 1.0


@dataclass(frozen=True)
class ResolutionPoint:
    """One mechanism at one size: measured, or why not."""

    name: str
    side: int
    seconds: float | None
    """Of one forward pass on one sample."""
    bytes: int | None
    """At its peak, beyond weights and input."""
    stopped: str = ""
    """What it would have taken, where that is too much; empty where it was measured."""


def cost_against_resolution(
    names: Sequence[str] = (MATERIALIZED, "softmax", "external_2d", "efficient_2d", "linear_2d"),
    sides: Sequence[int] = (64, 128, 256, 512, 1024),
    *,
    channels: int = 64,
    most_seconds: float = 20.0,
    most_bytes: int | None = None,
    threads: int = 1,
    each: Callable[[ResolutionPoint], None] = lambda point: None,
) -> list[ResolutionPoint]:
    """Time and memory of a block on square maps, in growing sizes. What would take too much is not tried: it is foreseen from the smaller sizes.

    Args:
        names: out of :func:`foveal.models.list_feature_mixers`, and ``softmax-materialized``.
        sides: of the maps, growing.
        channels: of the maps.
        most_seconds: a forward pass that is foreseen to take longer is not tried.
        most_bytes: likewise for memory; half of what is free if None.
        threads: of PyTorch, while time is measured; memory is measured with one.
        each: called with every point as it is done.

    Returns:
        A point for every name and side.

    Raises:
        ValueError: an unknown name, or sizes that do not grow.
    """
    check_sides(sides)
    for name in names:
        _block(name, channels)
    limit = _free_bytes() // 2 if most_bytes is None else most_bytes
    before = torch.get_num_threads()
    points = []
    torch.set_num_threads(threads)
    try:
        for name in names:
            done: list[ResolutionPoint] = []
            for side in sides:
                done.append(_point(name, side, channels, done, most_seconds, limit))
                each(done[-1])
            points += done
    finally:
        torch.set_num_threads(before)
    return points


def check_sides(sides: Sequence[int]) -> None:
    """Whether these are sizes to measure at.

    Raises:
        ValueError: none, one below 1, or sizes that do not grow.
    """
    if not sides or min(sides) < 1 or list(sides) != sorted(set(sides)):
        raise InputError(f"expected sides that grow, from 1 on, got {list(sides)}")


def measure_resolution(arms: Sequence[str], sides: Sequence[int], folder: Path) -> None:
    """Measure the arms of a comparison that are attentions by name, and softmax with its map in memory; ``resolution.json`` keeps it for these sides."""
    path = folder / "resolution.json"
    if path.exists() and {point["side"] for point in read_points(path)} == set(sides):
        return
    names = [MATERIALIZED, *(name for name in arms if name in list_feature_mixers())]
    write_json(path, [asdict(point) for point in cost_against_resolution(names, sides)])


def read_points(path: Path) -> list[dict[str, Any]]:
    """What ``resolution.json`` keeps.

    Raises:
        ValueError: it holds something else.
    """
    remedy = f"remove {path}, and the same command measures it again"
    points = read_json(path, remedy)
    names = {item.name for item in fields(ResolutionPoint)}
    if not isinstance(points, list) or not all(isinstance(point, dict) and point.keys() == names for point in points):
        raise Damaged(f"{path} is damaged: expected a list of objects with {', '.join(sorted(names))}; {remedy}")
    return points


def resolution_figure(points: Sequence[ResolutionPoint]) -> Figure:
    """Time and memory against the side of the map, both axes logarithmic; a cross where a mechanism was stopped."""
    names = list(dict.fromkeys(point.name for point in points))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for place, name in enumerate(names):
        color = ARM_COLORS[place % len(ARM_COLORS)]
        own = [point for point in points if point.name == name and not point.stopped]
        stopped = any(point.name == name and point.stopped for point in points)
        measured: tuple[list[float], list[float]] = ([point.seconds or 0 for point in own], [(point.bytes or 0) / 1e6 for point in own])
        for axes, values in zip(panels, measured, strict=True):
            axes.plot([point.side for point in own], values, "o-", color=color, label=name, markersize=4)
            if stopped and own:
                axes.plot([own[-1].side], values[-1:], "x", color=color, markersize=11, markeredgewidth=2.5)
    sides = sorted({point.side for point in points})
    for axes, what in zip(panels, ("seconds a forward pass", "peak MB beyond weights and input"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="side of the map, pixels (×: the next size would take too much)", ylabel=what)
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.grid(color="#eceff3")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _block(name: str, channels: int) -> Any:
    return make_feature_mixer("softmax" if name == MATERIALIZED else name, channels).eval()


def _prepare(name: str, side: int, channels: int) -> Callable[[], None]:
    """The forward pass, run once at a small size so that nothing is set up inside the measurement."""
    torch.manual_seed(0)
    block, x = _block(name, channels), torch.randn(1, channels, side, side)

    def call(maps: torch.Tensor = x) -> None:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH) if name == MATERIALIZED else nullcontext():
            block(maps)

    call(x[..., :8, :8].contiguous())
    return call


def _point(name: str, side: int, channels: int, smaller: Sequence[ResolutionPoint], most_seconds: float, most_bytes: int) -> ResolutionPoint:
    stopped = _foreseen(side, smaller, most_seconds, most_bytes)
    if stopped:
        return ResolutionPoint(name, side, None, None, stopped)
    call = _prepare(name, side, channels)
    times: list[float] = []
    while not times or (len(times) < _MOST_ROUNDS and sum(times) < _ENOUGH_SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return ResolutionPoint(name, side, median(times), peak_memory(_prepare, name, side, channels))


def _foreseen(side: int, smaller: Sequence[ResolutionPoint], most_seconds: float, most_bytes: int) -> str:
    """What this size would take, if that is too much. Cost grows with a power of the side that the last two sizes show, at least with their area."""
    if smaller and smaller[-1].stopped:
        return smaller[-1].stopped if "more than" in smaller[-1].stopped else f"more than at {smaller[-1].side}: {smaller[-1].stopped}"
    if not smaller:
        return ""
    for what, most, unit, scale in (("seconds", most_seconds, "s", 1.0), ("bytes", float(most_bytes), "GB", 1e-9)):
        last = getattr(smaller[-1], what)
        power = 2.0
        if len(smaller) > 1 and getattr(smaller[-2], what):
            ratio = smaller[-1].side / smaller[-2].side
            power = max(power, torch.tensor(last / getattr(smaller[-2], what)).log().item() / torch.tensor(ratio).log().item())
        foreseen = last * (side / smaller[-1].side) ** power
        if foreseen > most:
            return f"about {scale * foreseen:.3g} {unit}, of {scale * most:.3g} allowed"
    return ""


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
