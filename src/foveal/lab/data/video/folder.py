"""Your own videos, in folders of classes or in list files.

Two layouts, told apart by what is there:

==========  ==================================================================================================================================
folders     ``ROOT/train/CLASS/*.mp4``, ``ROOT/val/CLASS/*.mp4`` and, if there is one, ``ROOT/test/CLASS/*.mp4``
lists       ``train.csv``, ``val.csv`` and, if there is one, ``test.csv``, a line a video: its path, absolute or below ROOT, and the number of its
            class, with a space or a comma between, as lists of Kinetics are written. ``classes.txt`` beside them names the classes, a line each
==========  ==================================================================================================================================

In both a folder of pictures may stand for a video, whose frames they are.

Sampling and crops are those of TimeSformer's official code, see ``_sampling.py`` for what differs.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...._errors import InputError
from .._bundle import Data, register_data
from .._foreign import few, lines_of, read_text, real_place
from .._splits import SPLITS, class_files, split_of, splits_in
from .._walk import Found, Passed, check_kept, folders_in, joined, keep_apart
from ._bundle import TARGETS, VideoBundle, no_single_image
from ._reader import VIDEO_EXTENSIONS, VideoClip, is_frame_folder, open_clip, unreadable
from ._sampling import crop_thirds, frame_places, random_window, resize_short
from ._stand_in import stand_in_folder

__all__ = ["VideoFolder"]

_EXPECTED = "expected train/CLASS/*.mp4 and val/CLASS/*.mp4, or train.csv and val.csv with a path and a class number a line"
_LABELS = 1_000_000
"""No set has so many classes."""

Videos = list[tuple[Path, int]]


@register_data
@dataclass(frozen=True, kw_only=True)
class VideoFolder(Data):
    """Labeled videos in class folders or list files: a clip of each, drawn anew in training, from the middle in evaluation.

    Raises:
        ValueError: numbers that make no clip. In ``load``: files, classes or lists that are missing or cannot be read.
    """

    targets: ClassVar[str] = TARGETS

    root: Path
    """Folder with train/CLASS, val/CLASS and test/CLASS, or that the lists name files below."""
    lists: Path | None = None
    """Folder of train.csv, val.csv and test.csv, absolute or below ROOT; ROOT if None. One set may have several, such as one for each protocol."""
    img_size: int = 224
    """Side of the clips in pixels, after cropping."""
    num_frames: int = 8
    """T, frames of a clip."""
    stride: int = 32
    """The clip is cut out of ``stride · num_frames`` frames of the video."""
    target_fps: float | None = 30.0
    """At so many a second; at the video's own rate if None. Folders of pictures have no rate and count as having this one."""
    jitter: tuple[int, int] | None = None
    """Training resizes the shorter side to a number drawn between these, before it cuts out a square; 256 to 320 for ``img_size`` 224, and in
    proportion, if None."""
    hflip: bool = True
    """Mirror half of the training clips. Not for classes that have a left and a right."""
    test_crops: Literal[1, 3] = 3
    """With 3 the test split shows both ends and the middle of the longer side, as three views; with 1 the middle, as in validation."""
    mean: float = 0.45
    """Taken off every channel, where full brightness is 1."""
    std: float = 0.225
    """Divides every channel after the mean was taken off."""
    check: bool = True
    """Open every video once at the start, to leave out those that are missing or broken. Without it such a video stops the run with its name."""

    def __post_init__(self) -> None:
        if min(self.img_size, self.num_frames, self.stride) < 1 or self.std <= 0 or (self.target_fps is not None and self.target_fps <= 0):
            raise InputError(f"expected img_size, num_frames and stride of at least 1, target_fps and std above 0, got {self}")
        low, high = self.sides
        if not self.img_size <= low <= high:
            raise InputError(f"expected img_size ≤ smallest ≤ largest jitter, got img_size={self.img_size} and jitter={self.jitter}")

    @property
    def sides(self) -> tuple[int, int]:
        """Smallest and largest shorter side in training."""
        return self.jitter or (round(self.img_size * 256 / 224), round(self.img_size * 320 / 224))

    def load(self) -> VideoBundle:
        root = Path(self.root)
        if not root.is_dir():
            raise InputError(f"{root} {'is a file' if root.exists() else 'does not exist'}; {_EXPECTED}")
        listed = self._list_files(root)
        passed = Passed()
        splits, classes = _from_lists(listed, root, passed) if listed else _from_folders(root, passed)
        notes = passed.notes()
        if self.check:
            splits = {name: self._readable(name, videos, notes) for name, videos in splits.items()}
        seen = {label for _, label in splits["train"]}
        unseen = [name for label, name in enumerate(classes) if label not in seen]
        if unseen:
            notes.append(f"{len(unseen)} of {len(classes)} classes have no training video: {few(unseen)}")
        if "test" not in splits:
            notes.append("there is no test split: the final numbers are those of the videos of val, in the views of a test")
        return VideoBundle(
            train=_Videos(self, splits["train"], "train"),
            val=_Videos(self, splits["val"], "val"),
            test=_Videos(self, splits.get("test", splits["val"]), "test"),
            classes=classes,
            img_size=self.img_size,
            in_chans=3,
            prepare=no_single_image,
            notes=notes,
            num_frames=self.num_frames,
            prepare_clip=_Videos(self, [], "val").prepared,
        )

    def smoke_data(self) -> "VideoFolder":
        """Small videos of moving digits, written once into the cache and read like these, from lists or folders as these are."""
        folder = stand_in_folder()
        if Path(self.root) == folder:
            return self
        by_list = self.lists is not None or bool(_split_files(Path(self.root)))
        return replace(self, root=folder, lists=Path("lists") if by_list else None, img_size=32, num_frames=3, stride=4, target_fps=None, jitter=None)

    def _list_files(self, root: Path) -> dict[str, Path]:
        if self.lists is None:
            return _split_files(root)
        found = _split_files(root / self.lists)
        if not found:
            raise InputError(f"{root / self.lists} has no train.csv and val.csv")
        return found

    def _readable(self, split: str, videos: Videos, notes: list[str]) -> Videos:
        problems = unreadable([path for path, _ in videos])
        kept = [(path, label) for path, label in videos if path not in problems]
        if problems:
            notes.append(f"{len(problems)} of {len(videos)} videos of {split} were left out: {few(list(problems.values()))}")
        if not kept:
            raise InputError(f"none of the {len(videos)} videos of {split} can be read: {next(iter(problems.values()))}")
        if not self._list_files(Path(self.root)):
            # what a list names was meant
            check_kept(len(kept), list(problems.values()), f"{self.root}, {split}")
        return kept


class _Videos:
    def __init__(self, settings: VideoFolder, videos: Videos, split: str) -> None:
        self.augments = split == "train"
        self.videos = videos
        self._settings, self._split = settings, split

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.videos[index]
        with open_clip(path) as clip:
            return self.prepared(clip), label

    def prepared(self, clip: VideoClip) -> Tensor:
        """``(C, T, H, W)``, or in several views with an axis for these in front."""
        s = self._settings
        share = float(torch.rand(())) if self.augments else 0.5
        rate = clip.rate if clip.rate is not None and s.target_fps is not None else None
        length = s.stride * s.num_frames * (1.0 if rate is None or s.target_fps is None else rate / s.target_fps)
        pictures = clip.read(clip.numbers_at(frame_places(clip.count, length, s.num_frames, share)))
        frames = torch.stack([torch.from_numpy(picture) for picture in pictures]).permute(0, 3, 1, 2).to(torch.float32)
        views = [((view / 255 - s.mean) / s.std).transpose(0, 1) for view in self._views(frames)]
        # contiguous, and no part of a larger picture, when it goes to another process
        return views[0].contiguous() if len(views) == 1 else torch.stack(views)

    def _views(self, frames: Tensor) -> Iterator[Tensor]:
        s = self._settings
        low, high = s.sides
        if self.augments:
            side = round(low + (high - low) * float(torch.rand(())))
            view = random_window(resize_short(frames, side), s.img_size)
            yield view.flip(-1) if s.hflip and torch.rand(()) < 0.5 else view
        elif self._split == "test" and s.test_crops == 3:
            frames = resize_short(frames, s.img_size)
            for place in (0, 1, 2):
                yield crop_thirds(frames, s.img_size, place)
        else:
            yield crop_thirds(resize_short(frames, low), s.img_size, 1)


def _split_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        split = split_of(file.stem) if file.suffix.lower() == ".csv" and file.is_file() else None
        if split in found:
            raise InputError(f"{folder} has {found[split].name} and {file.name}, which both name the {split} split; keep one, or rename the other")
        if split is not None:
            found[split] = file
    for name in ("train", "val"):
        if found and name not in found:
            raise InputError(f"{folder} has {next(iter(found.values())).name} but no {name}.csv; add it")
    return {name: found[name] for name in SPLITS if name in found}


def _from_lists(files: dict[str, Path], root: Path, passed: Passed) -> tuple[dict[str, Videos], list[str]]:
    splits = {name: _read_list(file, root) for name, file in files.items()}
    _look_at_lists(files, splits, passed)
    most = max(label for videos in splits.values() for _, label in videos)
    named = files["train"].with_name("classes.txt")
    # a folder or a link to nothing is not as if there were no names
    if not os.path.lexists(named):
        absent = most + 1 - len({label for videos in splits.values() for _, label in videos})
        # a name is made for every number up to the largest
        if absent > _LABELS // 1000 + most // 2:
            raise InputError(f"the lists beside {files['train']} have class numbers up to {most}, of which {absent} never come; number from 0, or add {named}")
        return splits, [str(label) for label in range(most + 1)]
    classes = [line.strip() for line in lines_of(read_text(named).rstrip())]
    if "" in classes:
        raise InputError(f"{named}, line {classes.index('') + 1}: expected the name of class {classes.index('')}, got an empty line")
    if len(set(classes)) < len(classes) or len(classes) <= most:
        raise InputError(f"{named} has {len(classes)} lines; expected different names, one for each class of the lists, which go up to number {most}")
    return splits, classes


def _look_at_lists(files: dict[str, Path], splits: dict[str, Videos], passed: Passed) -> None:
    """Videos that are listed twice: in one list with two classes, or in two lists."""
    owner: dict[str, str] = {}
    for name, videos in splits.items():
        labels: dict[str, int] = {}
        for path, label in videos:
            real = real_place(path)
            if labels.setdefault(real, label) != label:
                raise InputError(f"{files[name]} has {path} with the classes {labels[real]} and {label}; expected one")
            if owner.setdefault(real, name) != name:
                raise InputError(f"{path} is in {files[owner[real]].name} and in {files[name].name}; expected one of them only")
        if len(labels) < len(videos):
            passed.remarks.append(f"{files[name].name} has {len(videos) - len(labels)} lines of videos that stand there already; they count twice")


def _read_list(file: Path, root: Path) -> Videos:
    videos = []
    for number, line in enumerate(lines_of(read_text(file)), 1):
        if not line.strip():
            continue
        # a path may have spaces and commas in it, a class number has none
        found = re.fullmatch(r"\s*(\S.*?)(?:\s*,\s*|\s+)([0-9]+)\s*", line)
        if not found or len(found[2]) > 9:
            raise InputError(f"{file}, line {number}: expected a path and the number of a class, with a space or a comma between, got {line[:200]!r}")
        # as tables are written, a path with a comma stands in quotes
        path = found[1][1:-1].replace('""', '"') if re.fullmatch(r'".+"', found[1]) else found[1]
        videos.append((root / path, int(found[2])))
    if not videos:
        raise InputError(f"{file} names no video")
    return videos


def _from_folders(root: Path, passed: Passed) -> tuple[dict[str, Videos], list[str]]:
    named = {split_of(child.name) for child in folders_in(root, Passed())}
    for name in ("train", "val"):
        if name not in named:
            raise InputError(f"{root} has neither {name}.csv nor {name}/; {_EXPECTED}")
    layout = splits_in(root, passed, "class folders")
    if layout.others:
        passed.remarks.append(f"{root} has folders beside its splits, which are not read: {', '.join(path.name for path in layout.others)}")
    found = {name: _classes(layout.splits[name], passed) for name in SPLITS if name in layout.splits}
    keep_apart({layout.named(name): joined(members.values()) for name, members in found.items()})
    classes = sorted(found["train"])
    for name, members in found.items():
        strangers = sorted(set(members) ^ set(classes))
        if strangers:
            raise InputError(f"{root}: {name} and train must have the same classes, but {', '.join(strangers[:5])} lie in one of them only")
    return {name: [(path, label) for label, own in enumerate(classes) for path in members[own].files] for name, members in found.items()}, classes


def _classes(folder: Path, passed: Passed) -> dict[str, Found]:
    children = folders_in(folder, passed, VIDEO_EXTENSIONS)
    if len(children) < 2:
        raise InputError(f"{folder} has {len(children)} class folders; at least 2 are needed, as {folder}/CLASS/*.mp4")
    out = class_files(folder, children, VIDEO_EXTENSIONS, passed, is_frame_folder)
    empty = [name for name, found in out.items() if not found.files]
    if empty:
        endings = ", ".join(sorted(VIDEO_EXTENSIONS))
        raise InputError(f"{folder}: no videos for {few(empty)}; expected files ending in {endings}, or folders of pictures; or remove the empty folders")
    return out
