"""What a set of labeled videos looks like from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...._errors import InputError
from .._bundle import DataBundle

__all__ = ["TARGETS", "VideoBundle", "no_single_image"]

TARGETS = "actions"
"""A label for a whole video. Another word than that of images, so that no network for images is put on videos."""


@dataclass(frozen=True)
class VideoBundle(DataBundle):
    """Splits of ``(clip, label)``: ``(C, T, H, W)`` floats; where a video is judged by several views of it, ``(V, C, T, H, W)``."""

    num_frames: int = 8
    """T."""
    aspects: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """What a class says beside itself, by name, as a number for each class; a prediction of another class may be right in it."""


def no_single_image(image: Any) -> Tensor:
    """In the place of ``prepare``, which is for single images.

    Raises:
        ValueError: always.
    """
    raise InputError("a run on such data takes no single image; foveal eval judges it on its own samples")
