"""Clouds of points as pictures, from two sides."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .._errors import missing_extra

__all__ = ["cloud_picture"]

_VIEWS = ((20, 45), (20, 135))
"""Elevation and azimuth, degrees."""
_INCHES, _DPI = 1.5, 90


def cloud_picture(points: Tensor, colors: NDArray[Any] | None = None, *, size: float = 4.0) -> NDArray[np.uint8]:
    """A cloud from two sides, side by side.

    Args:
        points: ``(N, 3 or more)``, coordinates first.
        colors: of each point, ``(N, 3)`` of 0 to 255; by depth if None.
        size: of a point, in square points of print.

    Returns:
        ``(H, W, 3)``.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "compare", "pictures of point clouds") from error
    xyz = points[:, :3].detach().cpu().float().numpy()
    figure = Figure(figsize=(_INCHES * len(_VIEWS), _INCHES), dpi=_DPI)
    reach = float(np.abs(xyz - xyz.mean(0)).max()) or 1.0
    for place, (elevation, azimuth) in enumerate(_VIEWS):
        axes: Any = figure.add_axes((place / len(_VIEWS), 0, 1 / len(_VIEWS), 1), projection="3d")
        shown = {"c": xyz[:, 2], "cmap": "viridis"} if colors is None else {"c": np.asarray(colors, float) / 255}
        axes.scatter(*xyz.T, s=size, linewidths=0, depthshade=False, **shown)
        axes.view_init(elevation, azimuth)
        for set_limits, middle in zip((axes.set_xlim, axes.set_ylim, axes.set_zlim), xyz.mean(0), strict=True):
            set_limits(middle - reach, middle + reach)
        axes.set_box_aspect((1, 1, 1), zoom=1.5)
        axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
