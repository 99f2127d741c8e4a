"""Video: clips of labeled videos, as files, as folders of frames, drawn of recorded motions, and made of moving digits."""

from ._bundle import VideoBundle
from ._reader import VideoClip, is_video, open_clip
from .folder import VideoFolder
from .mocap import MocapClips
from .moving_digits import MovingDigits

__all__ = ["MocapClips", "MovingDigits", "VideoBundle", "VideoClip", "VideoFolder", "is_video", "open_clip"]
