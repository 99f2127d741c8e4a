"""A few real video files of moving digits, with which a training on videos is tried out where those are not at hand."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...._errors import missing_extra
from .._miniature import miniature
from .moving_digits import DIRECTIONS, Clips, MovingDigits

__all__ = ["stand_in_folder", "write_video"]

_DIGITS = MovingDigits(source="digits", num_frames=14, digit=12, train_clips=64, val_clips=64, test_clips=64)
_EACH = {"train": 3, "val": 1}
"""Videos of a class."""


def stand_in_folder() -> Path:
    """A folder in the cache with ``train/CLASS/*.mp4``, ``val/CLASS/*.mp4``, and ``lists/train.csv`` and ``lists/val.csv`` of the same. Written once.

    Raises:
        ValueError: PyAV, which encodes, or the digits are not installed.
    """
    return miniature("video-folder", _write)


def _write(folder: Path) -> None:
    bundle = _DIGITS.load()
    (folder / "lists").mkdir()
    for split, each in _EACH.items():
        lines = _write_split(getattr(bundle, split), folder, split, each)
        (folder / "lists" / f"{split}.csv").write_text("".join(lines), encoding="utf8")
    (folder / "lists" / "classes.txt").write_text("\n".join(DIRECTIONS) + "\n", encoding="utf8")


def _write_split(clips: Clips, folder: Path, split: str, each: int) -> list[str]:
    """Videos of the first clips of each class; returns lines of a list."""
    counts = dict.fromkeys(range(len(DIRECTIONS)), 0)
    lines = []
    for index in range(len(clips)):
        frames, label = clips.compose(index)
        if counts[label] == each:
            continue
        counts[label] += 1
        path = Path(split, list(DIRECTIONS)[label], f"{counts[label]}.mp4")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        # wider than high, so that crops differ; twice as large, so that coding leaves something of them
        wide = np.pad(frames.repeat(2, 1).repeat(2, 2), ((0, 0), (0, 0), (8, 8)))
        write_video(folder / path, np.repeat(wide[..., None], 3, -1))
        lines.append(f"{path.as_posix()} {label}\n")
    assert all(count == each for count in counts.values()), "so many clips hold every direction often enough"
    return lines


def write_video(path: Path, frames: NDArray[np.uint8], *, rate: int = 30, codec: str = "mpeg4", options: dict[str, str] | None = None) -> None:
    """Frames ``(T, H, W, 3)`` as a video file; the ending decides the container.

    Raises:
        ValueError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video", "writing videos") from error
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
