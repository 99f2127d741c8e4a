"""Tar shards, as the webdataset package writes them, read in any order.

Shards are made to be streamed: the order is theirs, shuffled within a window, and where a stream stood cannot be told from a step's number. Here training has
to stop anywhere and go on to the same weights, on any number of processes, and to shuffle over all images. So a shard's headers are read once, where each
image lies is kept in an index beside other caches, and an image is then a read of some bytes at an offset. That wants a file system on which such reads are
cheap: a local disk, or one that behaves like it, not an object store. The webdataset package is not needed.
"""

import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..._errors import InputError
from ..._files import check_folder, replace_file
from ._fetch import cache_folder
from ._foreign import parse_json, to_text
from ._image import EXTENSIONS
from ._walk import Passed, is_hidden

__all__ = ["Shards", "index_shards"]

IMAGES = ("jpg", "jpeg", "png", "webp")
_BLOCK = tarfile.BLOCKSIZE
_LARGEST = 1 << 24
"""Bytes of a file with a label."""
_LABELS = 1 << 31
"""No set has so many classes."""
_PICTURES = {*EXTENSIONS, *(f".{ending}" for ending in IMAGES), ".heic", ".heif", ".avif", ".jp2", ".jxl", ".jfif"}
_OTHERS = ("hidden members of shards", "pictures in shards whose name or form is not read", "further members of shards")
_FORMAT = 2
"""Of an index; another number, and old ones are no longer looked at."""

Row = tuple[int, int, int]
"""Where the bytes of an image begin, how many they are, and its label."""


@dataclass(frozen=True)
class Shards:
    """Images that lie in shards."""

    paths: Sequence[Path]
    table: NDArray[np.int64]
    """Shard, offset, bytes and label of each image, ``(images, 4)``; mapped from the index, so that processes share it."""
    others: tuple[int, int, int] = (0, 0, 0)
    """Members that were passed over: hidden ones, pictures whose name or form is not read, and further files."""

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.table[:, 3]

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> bytes:
        """The file of an image.

        Raises:
            ValueError: the shard ends before it, so it is another than was indexed.
        """
        shard, offset, size, _ = map(int, self.table[index])
        # opened anew each time: thousands of shards would be more files than a process may hold open
        with self.paths[shard].open("rb", buffering=0) as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise InputError(f"{self.paths[shard]} changed since training began: it ends before byte {offset + size}; do not write to shards that are in use")
        return content

    def tell(self, passed: Passed) -> None:
        """What was passed over."""
        for why, count in zip(_OTHERS, self.others, strict=True):
            if count:
                passed.add(why, self.paths[0].parent, times=count)

    def name(self, index: int) -> str:
        """Where an image lies, in words. The index has no names: this walks the shard, for messages alone."""
        shard, offset, _, _ = map(int, self.table[index])
        with tarfile.open(self.paths[shard], "r:") as tar:
            names = [member.name for member in tar if member.offset_data == offset]
        return f"{names[0] if names else f'the image at byte {offset}'} in {self.paths[shard]}"


def index_shards(paths: Sequence[Path]) -> Shards:
    """Find all images of some shards, out of the index if these shards have one.

    Args:
        paths: of ``.tar`` files that are not compressed. An image is ``KEY.jpg``, ``.jpeg``, ``.png`` or ``.webp``; its label is the number in ``KEY.cls``, or
            else ``label`` in ``KEY.json``. Other members are not looked at.

    Returns:
        The images in the order of the shards.

    Raises:
        ValueError: a shard is damaged, cut off, compressed or without images; an image has no label or a label no image; a label is no whole number from 0 on;
            the index cannot be written.
    """
    known = [(str(path.resolve()), status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()]]
    digest = sha256(repr((_FORMAT, known)).encode()).hexdigest()[:20]
    index = cache_folder() / "shards" / f"{digest}.npy"
    if not index.exists():
        check_folder(index.parent)
        index.parent.mkdir(parents=True, exist_ok=True)
        # one process reads the headers, the others of the same machine wait for it
        with FileLock(index.with_suffix(".lock")):
            if not index.exists():
                rows, others = list[tuple[int, ...]](), np.zeros(3, np.int64)
                for number, path in enumerate(paths):
                    found, passed = _rows(path)
                    rows += [(number, *row) for row in found]
                    others += passed
                # the last row is no image: what was passed over has to be said when the index is used again
                content = BytesIO()
                np.save(content, np.array([*rows, (-1, *others)], dtype=np.int64).reshape(-1, 4), allow_pickle=False)
                replace_file(index, content.getvalue())
    try:
        table = np.load(index, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"the index {index} is damaged: {error}; delete it, and it is made anew") from error
    hidden, odd, further = map(int, table[-1, 1:])
    return Shards(tuple(paths), table[:-1], (hidden, odd, further))


def _rows(path: Path) -> tuple[list[Row], tuple[int, int, int]]:
    """The images of one shard, in its order, and how many members were passed over."""
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            members = _Members(path)
            end = 0
            for member in tar:
                end = member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0)
                members.add(member)
            # Python's reader takes a damaged header for the end, so the end has to be looked at
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise InputError(f"{path} is damaged or cut off at byte {end}, after {len(members.images)} images; get this shard again")
            chosen = members.labels["json"] | members.labels["cls"]
            _check(path, members.images, chosen)
            return [(member.offset_data, member.size, _label(file, chosen[key], path)) for key, member in members.images.items()], members.others()
    except InputError:
        raise
    # numbers in damaged headers make Python's reader raise much besides its own errors: ValueError, OverflowError, OSError, UnicodeDecodeError
    except Exception as error:
        raise InputError(f"{path} cannot be read as a tar file: {error}; it is damaged or compressed. Get it again, or decompress it") from error


class _Members:
    """Members of a shard, sorted into images, labels and others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.images: dict[str, tarfile.TarInfo] = {}
        self.labels: dict[str, dict[str, tarfile.TarInfo]] = {"cls": {}, "json": {}}
        self._hidden = 0
        self._further: list[tuple[str, str]] = []

    def add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        folder, _, base = member.name.rpartition("/")
        # a dot alone is the folder that was packed
        if any(is_hidden(part) for part in (*folder.split("/"), base) if part != "."):
            self._hidden += 1
            return
        stem, _, ending = base.partition(".")
        key, ending = f"{folder}/{stem}".lstrip("/"), ending.lower()
        kind = self.images if ending in IMAGES else self.labels.get(ending)
        if not member.isreg() or kind is None:
            self._further.append((key, ending))
        elif key in kind:
            raise InputError(f"{self._path} has two {'images' if kind is self.images else f'labels .{ending}'} of the key {key}; expected one each")
        else:
            kind[key] = member

    def others(self) -> tuple[int, int, int]:
        """Members that were passed over: hidden, pictures of keys without an image that is read, and the rest.

        Raises:
            ValueError: there are more such pictures than images that are read.
        """
        odd = [(key, ending) for key, ending in self._further if key not in self.images and f".{ending.rpartition('.')[2]}" in _PICTURES]
        if len(odd) > len(self.images):
            raise InputError(
                f"{self._path}: most pictures would be passed over, {len(odd)} of {len(odd) + len(self.images)}, such as {odd[0][0]}.{odd[0][1]}; "
                f"expected KEY.{IMAGES[0]} (or {', '.join(IMAGES[1:])}) with no dot in KEY, and KEY.cls"
            )
        return self._hidden, len(odd), len(self._further) - len(odd)


def _check(path: Path, images: dict[str, tarfile.TarInfo], labels: dict[str, tarfile.TarInfo]) -> None:
    if not images:
        raise InputError(
            f"{path} holds no images; expected members KEY.jpg (or {', '.join(IMAGES[1:])}) with KEY.cls beside each. "
            "An archive as it is downloaded is no shard: unpack it into folders train/CLASS and val/CLASS"
        )
    for wanted, there, missing in ((images, labels, "a label, .cls or .json"), (labels, images, f"an image, .{', .'.join(IMAGES)}")):
        alone = [key for key in wanted if key not in there]
        if alone:
            raise InputError(f"{len(alone)} keys of {path} are without {missing}, for example {alone[0]}")


def _label(file: IO[bytes], member: tarfile.TarInfo, path: Path) -> int:
    plain = not member.name.lower().endswith(".json")
    wanted = "a whole number from 0 on" if plain else 'an object with "label", a whole number from 0 on'
    if member.size > _LARGEST:
        raise InputError(f"{member.name} in {path} has {member.size} bytes; expected {wanted}")
    file.seek(member.offset_data)
    content = file.read(member.size)
    value: object = None
    text = to_text(content, f"{member.name} in {path}").strip()
    if not plain:
        with suppress(InputError):
            value = parse_json(text, member.name)
        value = value.get("label") if isinstance(value, dict) else None
    elif text.isascii() and text.isdecimal() and len(text) < 19:
        value = int(text)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LABELS:
        wanted += f" and below {_LABELS}" if isinstance(value, int) and value > 0 else ""
        raise InputError(f"{member.name} in {path} holds {content[:40]!r}; expected {wanted}")
    return value
