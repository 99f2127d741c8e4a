"""One video of a user's, made ready as a set makes its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...._errors import InputError
from ._reader import open_clip
from ._sampling import crop_thirds, frame_places, resize_short

__all__ = ["whole_video", "with_video"]


def with_video(ready: Callable[[Path], Tensor]) -> Callable[[Any], Tensor]:
    """What a bundle of videos has as ``prepare``: it takes the path of a video, and of nothing else.

    Args:
        ready: from a path to ``(C, T, H, W)``.
    """
    return partial(_prepared, ready)


def _prepared(ready: Callable[[Path], Tensor], video: Any) -> Tensor:
    if not isinstance(video, Path):
        raise InputError("a run on videos takes no single image; give a video file or a folder with the frames of one")
    return ready(video)


def whole_video(path: Path, num_frames: int, side: int) -> Tensor:
    """Frames evenly over a whole video, each the square in its middle: ``(T, 3, side, side)``, 0 to 255.

    Raises:
        ValueError: it cannot be read.
    """
    with open_clip(path) as clip:
        pictures = clip.read(clip.numbers_at(frame_places(clip.count, clip.count, num_frames, 0.5)))
    frames = torch.stack([torch.from_numpy(picture) for picture in pictures]).permute(0, 3, 1, 2).to(torch.float32)
    return crop_thirds(resize_short(frames, side), side, 1)
