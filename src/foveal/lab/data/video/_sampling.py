"""Which frames and which crops of a video are shown.

Official   facebookresearch/TimeSformer ``timesformer/datasets`` (that of SlowFast)
Formula    a clip is L = stride · frames · rate / target rate frames of the video long; its start is s ∈ [0, max(n − L, 0)] of n frames;
           the frame number i of T is ⌊s + i (L − 1) / (T − 1)⌋, at most n − 1: a video shorter than the clip repeats its last frame
Differs    Where there is one view in time it lies in the middle, as the paper says; the official code begins at the first frame there. A video of varying rate
           is cut by time, the official code takes its mean rate.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ._reader import VideoClip

__all__ = ["crop_thirds", "crop_window", "frame_places", "random_window", "resize_short", "whole_clip"]


def frame_places(count: int, length: float, num_frames: int, share: float) -> NDArray[np.float64]:
    """Where in the video the frames of a clip lie, in frames.

    Args:
        count: n, frames of the video.
        length: L.
        num_frames: T.
        share: of the room that the clip has in the video, which lies before it; 0 is the beginning, 0.5 the middle.
    """
    start = share * max(count - length, 0.0)
    return np.linspace(start, start + max(length, 1.0) - 1, num_frames).clip(0, count - 1)


def resize_short(frames: Tensor, side: int) -> Tensor:
    """Frames ``(T, C, H, W)`` whose shorter side becomes ``side``: bilinear, the longer side rounded down."""
    height, width = frames.shape[-2:]
    if min(height, width) == side:
        return frames
    size = (side * height // width, side) if width < height else (side, side * width // height)
    return F.interpolate(frames, size=size, mode="bilinear", align_corners=False)


def whole_clip(clip: VideoClip, num_frames: int, side: int) -> Tensor:
    """Frames from the first of a video to the last, evenly apart, the square in their middle: ``(T, C, side, side)`` from 0 to 255."""
    pictures = clip.read(clip.numbers_at(frame_places(clip.count, clip.count, num_frames, 0.0)))
    frames = torch.stack([torch.from_numpy(picture) for picture in pictures]).permute(0, 3, 1, 2).to(torch.float32)
    return crop_thirds(resize_short(frames, side), side, 1)


def crop_window(frames: Tensor, side: int, top: int, left: int) -> Tensor:
    """A square of ``side``."""
    return frames[..., top : top + side, left : left + side]


def crop_thirds(frames: Tensor, side: int, place: Literal[0, 1, 2]) -> Tensor:
    """A square at the beginning, in the middle or at the end of the longer side; in the middle of the shorter."""
    height, width = frames.shape[-2:]
    room = {"top": height - side, "left": width - side}
    start = {name: -(-free // 2) for name, free in room.items()}
    along = "top" if height > width else "left"
    start[along] = (0, start[along], room[along])[place]
    return crop_window(frames, side, **start)


def random_window(frames: Tensor, side: int) -> Tensor:
    """A square anywhere, from torch's random numbers."""
    top, left = (int(torch.randint(have - side + 1, ())) for have in frames.shape[-2:])
    return crop_window(frames, side, top, left)
