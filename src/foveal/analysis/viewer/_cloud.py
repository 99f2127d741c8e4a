"""A cloud of points on the page: where each point lies in two views, and the picture beneath the maps."""

import base64
import io

import numpy as np
from torch import Tensor

from ..clouds import Axis, looking_at

__all__ = ["ASPECT", "cloud_photo", "cloud_places"]

ASPECT = 2.0
"""Width by height: two views side by side."""
_MARGIN = 0.06
"""Around each view, of its side."""
_SIDE = 360


def cloud_places(points: Tensor, up: Axis = "z") -> list[list[float]]:
    """Of each point across and down in the first view and in the second, as shares of the whole picture.

    Args:
        points: ``(N, 3 or more)``, coordinates first.
        up: the coordinate that points up.
    """
    out: list[list[float]] = [[] for _ in points]
    for place, (across, upward, _) in enumerate(looking_at(points, up)):
        for at, (right, high) in enumerate(zip(across.tolist(), upward.tolist(), strict=True)):
            side = [0.5 + (0.5 - _MARGIN) * right, 0.5 - (0.5 - _MARGIN) * high]
            out[at] += [round((place + side[0]) / ASPECT, 4), round(side[1], 4)]
    return out


def cloud_photo(points: Tensor, up: Axis = "z") -> str:
    """The bare cloud in both views, what is far paler, as a picture without a ground."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGBA", (round(ASPECT * _SIDE), _SIDE), (0, 0, 0, 0))
    pen, radius = ImageDraw.Draw(picture), float(np.clip(60 / len(points) ** 0.5, 1.6, 6))
    places = np.array(cloud_places(points, up))
    for view, (_, _, near) in enumerate(looking_at(points, up)):
        share = (near - near.min()) / (np.ptp(near) or 1.0)
        for at in np.argsort(near, kind="stable").tolist():
            x, y = places[at, 2 * view] * picture.width, places[at, 2 * view + 1] * picture.height
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(128, 136, 145, round(90 + 150 * share[at])))
    written = io.BytesIO()
    picture.save(written, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
