"""Frames of a video by their number, and no others than must be: from a file through FFmpeg's libraries (PyAV), or from a folder of pictures.

A file is walked through once without decoding, which tells the time of every frame and where decoding can begin. So the number of frames is counted and not
taken from a header, and the frame that is read is the one that was asked for, also where the rate varies or frames refer to later ones.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError, missing_extra
from .._image import EXTENSIONS, open_rgb
from .._walk import Passed, is_hidden

__all__ = ["VIDEO_EXTENSIONS", "VideoClip", "is_frame_folder", "is_video", "open_clip", "unreadable"]

Picture = NDArray[np.uint8]

VIDEO_EXTENSIONS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
_LATE = 0.05
"""Containers round times to milliseconds; a frame that begins so little after the asked place, in frames, counts as shown there."""


class VideoClip(Protocol):
    """An open video."""

    count: int
    """Number of frames, at least 1."""
    rate: float | None
    """Frames per second on average; None where nobody says."""

    def numbers_at(self, places: NDArray[np.float64]) -> list[int]:
        """Numbers of the frames that are shown at these times, which are counted in frames of the mean rate."""
        ...

    def read(self, numbers: Sequence[int]) -> list[Picture]:
        """These frames, ``(H, W, 3)`` each, upright, all of one size."""
        ...

    def check(self) -> None:
        """Whether it can be read: every picture of a folder; of a file, whose frames are many, the first, the middle and the last."""
        ...


@contextmanager
def open_clip(path: Path) -> Iterator[VideoClip]:
    """A video file, or a folder of pictures that are its frames in the order of their numbers.

    Args:
        path: of the file or folder.

    Returns:
        A context with ``count``, ``rate`` and ``read(numbers)``.

    Raises:
        ValueError: nothing is there; it is no video or has no frames. While frames are read: one of them cannot be decoded. The message names the file.
    """
    if path.is_dir():
        yield _FrameFolder(path)
        return
    av = _av()
    if not path.exists():
        raise InputError(f"{path} does not exist")
    with _named(path, av):
        container = av.open(str(path), metadata_errors="replace")
    with container:
        with _named(path, av):
            file = _VideoFile(path, container, av)
        yield file


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Those that cannot be read, and why; each is opened."""

    def problem(path: Path) -> str:
        try:
            with open_clip(path) as clip:
                clip.check()
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        return {path: found for path, found in zip(paths, pool.map(problem, paths), strict=True) if found}


def is_video(path: Path) -> bool:
    """Whether this would be read as a video: a folder, or a file whose name ends as videos do."""
    return path.is_dir() or path.suffix.lower() in VIDEO_EXTENSIONS


def is_frame_folder(path: Path) -> bool:
    """Whether a folder holds pictures, and so is a video.

    Raises:
        ValueError: it holds videos too, and may be either.
    """
    pictures = next((child for child in path.iterdir() if _is_frame(child)), None)
    if pictures is None:
        return False
    videos = next((child for child in path.iterdir() if child.suffix.lower() in VIDEO_EXTENSIONS and not is_hidden(child.name)), None)
    if videos is not None:
        raise InputError(f"{path} holds the video {videos.name} and the picture {pictures.name}; expected videos, or the frames of one; move one of them")
    return True


def _is_frame(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not is_hidden(path.name)


class _FrameFolder:
    rate: float | None = None

    def __init__(self, path: Path) -> None:
        passed, self._files = Passed(), list[Path]()
        for child in path.iterdir():
            if is_hidden(child.name):
                continue
            if _is_frame(child):
                self._files.append(child)
            elif not child.is_dir():
                passed.ending(child.name, child)
        self._files.sort(key=_natural)
        if not self._files:
            raise InputError(f"{path} holds no pictures; expected a video file, or a folder with its frames as 000001.jpg …")
        passed.check(len(self._files), str(path))
        self.count = len(self._files)

    def numbers_at(self, places: NDArray[np.float64]) -> list[int]:
        return [int(place) for place in places.clip(0, self.count - 1)]

    def read(self, numbers: Sequence[int]) -> list[Picture]:
        found: dict[int, Picture] = {}
        for number in sorted(set(numbers)):
            file = self._files[number]
            found[number] = np.array(open_rgb(file, f"the frame {file}"))
        self._same_size({picture.shape for picture in found.values()})
        return [found[number] for number in numbers]

    def check(self) -> None:
        """Every frame, one at a time."""
        self._same_size({self.read([number])[0].shape for number in range(self.count)})

    def _same_size(self, sizes: set[tuple[int, ...]]) -> None:
        if len(sizes) > 1:
            raise InputError(f"{self._files[0].parent} holds frames of different sizes; expected those of one video")


class _VideoFile:
    rate: float | None

    def __init__(self, path: Path, container: Any, av: Any) -> None:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream")
        self._path, self._container, self._av = path, container, av
        self._stream = container.streams.video[0]
        # many processes read at once; threads inside each would only wait for another
        self._stream.codec_context.thread_count = 1
        times, self._starts = self._walk()
        if not len(times):
            raise InputError(f"{path} has no frames")
        self._times = times
        self.count = len(times)
        seconds = float((times[-1] - times[0]) * self._stream.time_base)
        if seconds > 0:
            self.rate = (self.count - 1) / seconds
        else:
            self.rate = float(self._stream.average_rate) if self._stream.average_rate else None

    def _walk(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """When each frame is shown, and which of these times decoding can begin at, in units of the stream."""
        shown, starts, untimed = [], [], False
        for packet in self._container.demux(self._stream):
            # an empty packet ends the stream; frames outside an edit list are decoded and not shown; a cut file ends in half a frame
            if not packet.size or packet.is_discard or packet.is_corrupt:
                continue
            if packet.pts is None:
                untimed = True
                break
            shown.append(packet.pts)
            if packet.is_keyframe:
                starts.append(packet.pts)
        if untimed:
            # some containers tell the time of a frame only when it is decoded
            self._container.seek(0)
            shown = [frame.pts for frame in self._container.decode(self._stream) if frame.pts is not None]
            starts = []
        return np.unique(np.array(shown, np.int64)), np.unique(np.array(starts, np.int64))

    def numbers_at(self, places: NDArray[np.float64]) -> list[int]:
        if self.rate is None or self.count == 1:
            return [0] * len(places)
        begins = (self._times - self._times[0]).astype(np.float64) * float(self._stream.time_base) * self.rate
        found = np.searchsorted(begins, places + _LATE, side="right") - 1
        return found.clip(0, self.count - 1).tolist()

    def read(self, numbers: Sequence[int]) -> list[Picture]:
        wanted = sorted({int(self._times[number]) for number in numbers})
        with _named(self._path, self._av):
            found = self._decode(wanted)
        missing = [time for time in wanted if time not in found]
        if missing:
            number = int(np.searchsorted(self._times, missing[0]))
            raise InputError(f"{self._path} is damaged: frame {number} of {self.count} cannot be decoded")
        return [found[int(self._times[number])] for number in numbers]

    def check(self) -> None:
        self.read(sorted({0, self.count // 2, self.count - 1}))

    def _decode(self, wanted: Sequence[int]) -> dict[int, Picture]:
        found: dict[int, Picture] = {}
        size: dict[str, int] = {}
        frames: Iterator[Any] | None = None
        at: int | None = None
        for time in wanted:
            start = self._start(time)
            # going on is cheaper than starting anew, unless decoding can begin between here and there
            if frames is None or at is None or (start is not None and start > at):
                frames = self._from(time, start)
            for frame in frames:
                if frame.pts is None:
                    continue
                at = frame.pts
                if at == time:
                    size = size or {"width": frame.width, "height": frame.height}
                    found[time] = _upright(frame.to_ndarray(format="rgb24", **size), frame.rotation)
                if at >= time:
                    break
        return found

    def _start(self, time: int) -> int | None:
        place = int(np.searchsorted(self._starts, time, side="right")) - 1
        return int(self._starts[place]) if place >= 0 else None

    def _from(self, time: int, start: int | None) -> Iterator[Any]:
        """Frames from one on that does not lie behind ``time``."""
        if start is not None:
            self._container.seek(start, stream=self._stream)
            frames = self._container.decode(self._stream)
            first = next(frames, None)
            # an index of a file may be wrong, and lead too far
            if first is not None and first.pts is not None and first.pts <= time:
                return _chain(first, frames)
        self._container.seek(0)
        return iter(self._container.decode(self._stream))


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _upright(picture: Picture, degrees: int) -> Picture:
    """As the camera was held; cameras turn by quarters."""
    return np.ascontiguousarray(np.rot90(picture, round(degrees / 90))) if degrees % 360 else picture


def _natural(file: Path) -> tuple[Any, ...]:
    """Numbers by their value: 2.jpg before 10.jpg."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", file.stem) if part)


@contextmanager
def _named(path: Path, av: Any) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"cannot read the video {path}: {error}; take it out, or get it anew") from error


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video", "reading videos") from error
    return av
