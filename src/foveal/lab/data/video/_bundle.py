"""What a set of labeled videos looks like from outside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...._errors import InputError
from .._bundle import DataBundle
from ._reader import VideoClip

__all__ = ["TARGETS", "VideoBundle", "no_single_image"]

TARGETS = "actions"
"""A label for a whole video. Another word than that of images, so that no network for images is put on videos."""


def no_single_image(image: Any) -> Tensor:
    """In the place of ``prepare``, which is for single images, in sets whose samples are more: clips, or regions and words.

    Raises:
        ValueError: always.
    """
    raise InputError("this run takes no single image: a sample of its data is more than one; foveal eval judges it on its own")


def no_clip(clip: VideoClip) -> Tensor:
    """Where nothing says how a video of others is made ready.

    Raises:
        ValueError: always.
    """
    raise InputError("this run does not say how a video is made ready for it; give a clip of its own test, as test:0")


@dataclass(frozen=True)
class VideoBundle(DataBundle):
    """Splits of ``(clip, label)``: ``(C, T, H, W)`` floats; where a video is judged by several views of it, ``(V, C, T, H, W)``."""

    num_frames: int = 8
    """T."""
    prepare_clip: Callable[[VideoClip], Tensor] = no_clip
    """An open video to the input of a network that was trained on these, ``(C, T, H, W)``."""
    aspects: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """What a class says beside itself, by name, as a number for each class; a prediction of another class may be right in it."""
