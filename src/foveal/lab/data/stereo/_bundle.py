"""What a stereo set looks like from outside, and what its readers share.

Shapes     H height, W width
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from .._bundle import DataBundle
from .._image import rgb
from ..folder import _MEAN, _STD

__all__ = ["Pixels", "StereoBundle", "StereoSample", "as_sample", "prepare_pair", "shrink"]

Pixels = NDArray[Any]
StereoSample = tuple[Tensor, tuple[Tensor, int]]
"""Both images as one tensor ``(6, H, W)``, left before right; the disparity ``(H, W)``, NaN where nobody knows, and the number of the scene, −1 for none."""


@dataclass(frozen=True)
class StereoBundle(DataBundle):
    """Splits of :data:`StereoSample`. In training all are of size ``crop``; otherwise sizes are the images' own."""

    crop: tuple[int, int] = (256, 512)
    """Height and width in training."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes that samples of the test split are numbered by, where there are few and each is scored by itself."""


def as_sample(left: Pixels, right: Pixels, disparity: Pixels, scene: int = -1) -> StereoSample:
    """Images ``(H, W, 3)``, bytes or floats of 0 to 1, standardized; what is not finite in the disparity becomes NaN."""
    truth = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float32)
    return torch.cat([_standard(left), _standard(right)]), (torch.from_numpy(truth), scene)


def _standard(image: Pixels) -> Tensor:
    # channels first: NumPy is slow along an axis of three
    values = np.array(image.transpose(2, 0, 1), np.float32, order="C")
    if image.dtype == np.uint8:
        values /= 255
    values -= np.asarray(_MEAN, np.float32)[:, None, None]
    values /= np.asarray(_STD, np.float32)[:, None, None]
    return torch.from_numpy(values)


def prepare_pair(images: Any) -> Tensor:
    """Two PIL images of one size, left and right, as a network takes them, ``(6, H, W)``.

    Raises:
        ValueError: one image alone, or two of unlike sizes.
    """
    if not isinstance(images, Sequence) or len(images) != 2:
        raise InputError("stereo needs two images, left and right; on the command line give the right one with --right")
    left, right = (np.asarray(rgb(image, upright=False)) for image in images)
    if left.shape != right.shape:
        raise InputError(f"the left image is {left.shape[1]}×{left.shape[0]} and the right one {right.shape[1]}×{right.shape[0]}; expected a rectified pair")
    return torch.cat([_standard(left), _standard(right)])


def shrink(left: Pixels, right: Pixels, disparity: Pixels, factor: int) -> tuple[Pixels, Pixels, Pixels]:
    """The pair made ``factor`` times smaller: images by means over blocks, disparities divided, and of each block the one in its middle.

    A mean of disparities would lie between foreground and background, where nothing is. What does not fill a block is cut off below and on the right.
    """
    if factor == 1:
        return left, right, disparity
    height, width = (side // factor for side in disparity.shape)
    if min(height, width) < 1:
        raise InputError(f"an image of {disparity.shape[1]}×{disparity.shape[0]} cannot be made {factor} times smaller")
    small = []
    for image in (left, right):
        scale = 255 if image.dtype == np.uint8 else 1
        blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        small.append(blocks.mean((1, 3), dtype=np.float64).astype(np.float32) / np.float32(scale))
    middle = disparity[factor // 2 :: factor, factor // 2 :: factor][:height, :width]
    return small[0], small[1], middle / factor
