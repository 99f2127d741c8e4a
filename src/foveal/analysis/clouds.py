"""Clouds of points as pictures, each from two sides; and tables of which class was taken for which."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .._errors import missing_extra

__all__ = ["Axis", "CloudView", "cloud_picture", "cloud_sheet", "confusion_picture", "looking_at", "weight_colors"]

_VIEWS = ((20, 45), (20, 135))
"""Elevation and azimuth, degrees."""
_INCHES, _DPI = 1.5, 90
_INK, _WRONG = "#24292f", "#d62828"
_HAZE = 0.45
"""How far the farthest points are towards white."""
_APART = 2.1
"""From the middle of one view to the next, in radii."""

Colors = NDArray[Any]
Axis = Literal["x", "y", "z"]


@dataclass(frozen=True)
class CloudView:
    """A cloud to be drawn."""

    points: Tensor
    """``(N, 3 or more)``, coordinates first."""
    colors: Colors | None = None
    """Of each point, ``(N, 3)`` of 0 to 255; by height if None."""
    caption: str = ""
    wrong: bool = False
    """Whether the caption is of a wrong answer."""
    star: int | None = None
    """A point that is marked."""


def cloud_picture(points: Tensor, colors: Colors | None = None, *, size: float | None = None, up: Axis = "z") -> NDArray[np.uint8]:
    """A cloud from two sides, side by side.

    Args:
        points: ``(N, 3 or more)``, coordinates first.
        colors: of each point, ``(N, 3)`` of 0 to 255; by height if None.
        size: of a point, in square points of print; by their number if None.
        up: the coordinate that points up.

    Returns:
        ``(H, W, 3)``.
    """
    figure, canvas = _figure((_INCHES * len(_VIEWS), _INCHES))
    _draw(figure.add_axes((0, 0, 1, 1)), CloudView(points, colors), size, up)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def cloud_sheet(
    rows: Sequence[tuple[str, Sequence[CloudView]]], *, title: str, up: Axis = "z", legend: Sequence[tuple[str, Sequence[float]]] = (), about: str = ""
) -> bytes:
    """Clouds in rows, each from two sides with its caption above, as a PNG.

    Args:
        rows: a title, and clouds.
        title: of the sheet.
        up: the coordinate that points up.
        legend: names with the colors of 0 to 255 that stand for them.
        about: a line below the title.
    """
    columns = max(len(views) for _, views in rows)
    head, foot = 0.62 if about else 0.42, (0.34 * -(-len(legend) // 8) if legend else 0.0) + 0.05
    width, height = max(2 * 1.55 * columns, 6.2), 1.95 * len(rows) + head + foot
    figure, canvas = _figure((width, height))
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=12, color=_INK, va="top", weight="bold")
    figure.text(0.1 / width, 1 - 0.36 / height, about, fontsize=9, color=_INK, va="top")
    for row, (name, views) in enumerate(rows):
        top = height - head - 1.95 * row
        figure.text(0.1 / width, top / height, name, fontsize=9.5, color=_INK, va="top")
        for column, view in enumerate(views):
            step = width / columns
            # a ground of its own, so that the two sides are seen to be of one cloud
            ground = _rectangle((column * step + 0.04) / width, (top - 1.92) / height, (step - 0.08) / width, 1.72 / height)
            figure.add_artist(ground)
            axes = figure.add_axes(((column * step + 0.06) / width, (top - 1.9) / height, (step - 0.12) / width, 1.47 / height))
            _draw(axes, view, None, up)
            axes.set_title(view.caption, fontsize=8.5, color=_WRONG if view.wrong else _INK, pad=1.5)
    if legend:
        handles = [_patch(color) for _, color in legend]
        figure.legend(handles, [name for name, _ in legend], loc="lower center", ncols=min(8, len(legend)), fontsize=8.5, frameon=False)
    return _png(figure, canvas)


def confusion_picture(counts: NDArray[Any], names: Sequence[str], *, title: str, what: str = "clouds") -> bytes:
    """Which class was taken for which, as a PNG: rows are the truth, columns the answers, colors the share of a row.

    Args:
        counts: ``(K, K)``.
        names: of the classes.
        title: of the picture.
        what: was counted.
    """
    total = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(total, 1)
    number = len(names)
    side = max(3.2, (0.62 if number <= 12 else 0.27) * number)
    longest = max(map(len, names))
    figure, canvas = _figure((side + 0.085 * longest + 1.3, side + 0.085 * longest + 0.9))
    axes: Any = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(number), names, rotation=60 if number <= 12 else 90, ha="right" if number <= 12 else "center", fontsize=8.5)
    axes.set_yticks(range(number), [f"{name} ({count:,})" for name, count in zip(names, total[:, 0].tolist(), strict=True)], fontsize=8.5)
    axes.set_xlabel("answer")
    axes.set_ylabel(f"truth (number of {what})")
    axes.set_title(title, fontsize=11, color=_INK)
    if number <= 12:
        for row, column in np.ndindex(shares.shape):
            if counts[row, column]:
                text = f"{100 * shares[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color="white" if shares[row, column] > 0.55 else _INK)
    bar = figure.colorbar(shown, ax=axes, fraction=0.045, pad=0.02)
    bar.set_label("share of the row", fontsize=8.5)
    return _png(figure, canvas, bbox_inches="tight", pad_inches=0.1)


def weight_colors(weights: NDArray[Any], most: float | None = None) -> Colors:
    """Colors ``(N, 3)`` of 0 to 255 for weights of points: gray to red up to ``most``, or the largest; blue below 0."""
    relative = np.clip(weights / max(float(np.abs(weights).max()) if most is None else most, 1e-12), -1, 1)
    stops = np.array([-1.0, -0.5, 0.0, 0.25, 0.6, 1.0])
    colors = np.array([(8, 48, 107), (66, 146, 198), (214, 214, 214), (253, 187, 108), (230, 75, 40), (120, 0, 20)], np.float64)
    return np.stack([np.interp(relative, stops, colors[:, channel]) for channel in range(3)], -1)


def _draw(axes: Any, view: CloudView, size: float | None, up: Axis) -> None:
    xyz = _upright(view.points, up)
    height = xyz[:, 2] - xyz[:, 2].min()
    colors = _by_height(height) if view.colors is None else np.asarray(view.colors, np.float64) / 255
    size = float(np.clip(2400 / len(xyz), 2.5, 28)) if size is None else size
    for place, (across, upward, near) in enumerate(looking_at(view.points, up)):
        order = np.argsort(near, kind="stable")
        # what is far is paler, unless colors are weights to be compared
        haze = _HAZE * (near.max() - near) / (np.ptp(near) or 1.0) if view.star is None else np.zeros(len(near))
        shown = colors + haze[:, None] * (1 - colors)
        axes.scatter(across[order] + _APART * place, upward[order], s=size, c=shown[order], linewidths=0.15, edgecolors=(0, 0, 0, 0.35))
        if view.star is not None:
            axes.plot(across[view.star] + _APART * place, upward[view.star], "*", markersize=8, color="#1b9e3c", markeredgecolor="black", markeredgewidth=0.6)
    axes.set_xlim(-1.05, _APART * (len(_VIEWS) - 1) + 1.05)
    axes.set_ylim(-1.05, 1.05)
    axes.set_aspect("equal")
    axes.set_axis_off()


def looking_at(points: Tensor, up: Axis = "z") -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Of each view how far every point lies to the right, upwards and towards who looks; the farthest from the middle of the cloud at 1."""
    xyz = _upright(points, up)
    xyz = xyz - (xyz.max(0) + xyz.min(0)) / 2
    reach = float(np.linalg.norm(xyz, axis=1).max()) or 1.0
    out = []
    for elevation, azimuth in _VIEWS:
        across, upward, near = (xyz / reach @ _looking(elevation, azimuth)).T
        out.append((across, upward, near))
    return out


def _upright(points: Tensor, up: Axis) -> NDArray[np.float64]:
    xyz = points[:, :3].detach().cpu().double().numpy()
    # a turn of the axes, so that what was right-handed stays so
    return np.roll(xyz, {"x": 2, "y": 1, "z": 0}[up], axis=1)


def _looking(elevation: float, azimuth: float) -> NDArray[np.float64]:
    """Columns: to the right, upwards and towards who looks."""
    (sin_e, sin_a), (cos_e, cos_a) = np.sin(np.deg2rad([elevation, azimuth])), np.cos(np.deg2rad([elevation, azimuth]))
    return np.array([(-sin_a, cos_a, 0), (-sin_e * cos_a, -sin_e * sin_a, cos_e), (cos_e * cos_a, cos_e * sin_a, sin_e)]).T


def _by_height(height: NDArray[Any]) -> Colors:
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](height / (height.max() or 1.0)))[:, :3]


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "compare", "pictures of point clouds") from error
    figure = Figure(figsize=size, dpi=_DPI)
    return figure, FigureCanvasAgg(figure)


def _rectangle(left: float, bottom: float, width: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, bottom), width, height, facecolor="#f4f6f8", edgecolor="none", zorder=-1)


def _patch(color: Sequence[float]) -> Any:
    from matplotlib.patches import Patch

    red, green, blue = (float(value) / 255 for value in color)
    return Patch(color=(red, green, blue))


def _png(figure: Any, canvas: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    # no version in it: the same picture is the same bytes
    canvas.print_figure(buffer, format="png", dpi=_DPI, metadata={"Software": None}, **options)
    return buffer.getvalue()
