"""Real scenes with measured disparity, each a single pair: what a network learned on made pairs is tested on them, one by one.

``motorcycle``  of Middlebury 2014 (Scharstein et al. 2014) at a quarter of its size, in the wheel of scikit-image: 741×500, disparities 7 to 60
``aloe``        of Middlebury 2006 (Hirschmüller and Scharstein 2007), in Debian's opencv-doc: 1282×1110, disparities 43 to 211 in whole pixels;
                get it with ``foveal.lab.data.fetch("opencv-doc")``
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...._errors import missing_extra, unknown
from .._fetch import find
from .._image import open_picture
from ._bundle import Pixels, StereoSample, as_sample, shrink

__all__ = ["SCENES", "RealScenes", "StereoScene", "read_scene"]


@dataclass(frozen=True)
class StereoScene:
    """A pair in full size: images ``(H, W, 3)`` of bytes, and the disparity of the left one, ``(H, W)``, NaN where nobody knows."""

    left: Pixels
    right: Pixels
    disparity: Pixels


def _motorcycle() -> StereoScene:
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise missing_extra("scikit-image", "data", "the motorcycle pair") from error
    left, right, disparity = stereo_motorcycle()
    return StereoScene(left, right, np.where(np.isfinite(disparity), disparity, np.nan))


def _aloe() -> StereoScene:
    folder = find("opencv-doc")
    left, right, values = (_picture(folder / name) for name in ("aloeL.jpg", "aloeR.jpg", "aloeGT.png"))
    return StereoScene(left, right, np.where(values == 0, np.nan, values.astype(np.float32)))


def _picture(path: Path) -> Pixels:
    return np.asarray(open_picture(path, hint="fetch it again").image)


SCENES: dict[str, tuple[Callable[[], StereoScene], int]] = {"motorcycle": (_motorcycle, 2), "aloe": (_aloe, 7)}
"""How each is read, and how many times smaller it must be for its disparities to stay below 32."""


@lru_cache(maxsize=2)
def read_scene(name: str) -> StereoScene:
    """A pair by name.

    Raises:
        ValueError: an unknown name, or the package that holds it is not here; the message says how to get it.
    """
    if name not in SCENES:
        raise unknown("stereo scene", name, SCENES)
    return SCENES[name][0]()


class RealScenes:
    """A split of named scenes, each so much smaller that its disparities stay below ``max_disparity``."""

    augments = False

    def __init__(self, names: Sequence[str], max_disparity: int) -> None:
        self.factors = {}
        self._samples: list[StereoSample] = []
        for number, name in enumerate(names):
            scene = read_scene(name)
            # below 32 in the table; twice the range is half the factor
            self.factors[name] = factor = max(1, -(-SCENES[name][1] * 32 // max_disparity))
            self._samples.append(as_sample(*shrink(scene.left, scene.right, scene.disparity, factor), number))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> StereoSample:
        return self._samples[index]
