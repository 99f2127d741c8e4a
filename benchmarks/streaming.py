"""A million images in tar shards, read as training reads them, beside a plain loop of the webdataset package over the same shards.

Written first into a temporary folder: images of 8 by 8 pixels as PNG with a number as label, about two kilobytes each on disk; ``FOVEAL_SAMPLES`` sets how
many. Both sides give the same samples, which is seen from a digest of all of them that does not depend on the order, before anything is timed. Then they take
turns, one core each. webdataset reads shards in a row and shuffles in a window, of a thousand here; Foveal reads each image at its place, shuffled over all.

What is measured besides: the memory of the process from a tenth of an epoch on, which must not grow; that a walk which is left and taken up at another step is
the walk; and how well each side shuffles: the rank correlation of the order with the order on disk, how far neighbors of the order lie apart on disk, beside
what they would if drawn at random, and how many of them lie in one shard.
"""

import hashlib
import io
import os
import struct
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ._harness import Row

SAMPLES = int(os.environ.get("FOVEAL_SAMPLES", "1000000"))
PER_SHARD, BATCH, SIDE, WINDOW = 10_000, 256, 8, 1000
TIMED = 20_000
"""Samples of one turn, at most."""
TURNS = 5
LABELS = 1000

Sample = tuple[int, int]
"""The number that an image was made of, and its label."""


def write(root: Path, samples: int, per_shard: int = PER_SHARD) -> list[Path]:
    """Shards whose images say which they are: the number of the sample stands in the first pixels."""
    paths = []
    for start in range(0, samples, per_shard):
        path = root / f"train-{start // per_shard:05d}.tar"
        with path.open("wb") as file:
            for number in range(start, min(start + per_shard, samples)):
                for ending, content in (("png", png(number)), ("cls", str(number % LABELS).encode())):
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(content)
                    file.write(member.tobuf(tarfile.USTAR_FORMAT))
                    file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
        paths.append(path)
    return paths


def png(number: int) -> bytes:
    """An image of its own for each number."""
    pixels = hashlib.blake2b(number.to_bytes(4, "big"), digest_size=64).digest() * 3
    pixels = number.to_bytes(4, "big") + pixels[4 : 3 * SIDE * SIDE]
    rows = b"".join(b"\0" + pixels[3 * SIDE * y : 3 * SIDE * (y + 1)] for y in range(SIDE))
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# -- both sides ----------------------------------------------------------------------------------------------------------------------------------


def ours(paths: list[Path], first: int = 0, steps: int | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches from a step on, through the reader, the order and the loader of training."""
    from torch.utils.data import DataLoader

    from foveal.lab.data._shards import index_shards
    from foveal.lab.training.order import Order, Seeded, StepSampler

    split: Any = _Split(index_shards(paths))
    last = first + (-(-len(split) // BATCH) if steps is None else steps)
    return iter(DataLoader(Seeded(split, 0), batch_sampler=StepSampler(Order(len(split), BATCH, 0), first, last)))


class _Split:
    """Decoded, and not augmented: what follows is the same on both sides."""

    augments = False

    def __init__(self, source: Any) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return decoded(self._source.read(index)), int(self._source.labels[index])


def theirs(paths: list[Path]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """webdataset as its documentation has it."""
    try:
        import webdataset
    except ImportError:
        raise SystemExit("the other side of this benchmark is the webdataset package: pip install webdataset") from None
    from torch.utils.data import DataLoader

    stream = webdataset.WebDataset([str(path) for path in paths], shardshuffle=len(paths), seed=0).shuffle(WINDOW)
    return iter(DataLoader(stream.to_tuple("png", "cls").map_tuple(decoded, int), batch_size=BATCH))


def decoded(content: bytes) -> torch.Tensor:
    from PIL import Image

    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def numbers(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[Any, Any]]:
    """Which samples each batch has, and their labels."""
    weights = torch.tensor([1 << 24, 1 << 16, 1 << 8, 1])
    for images, labels in batches:
        # the first pixel and the red of the second
        first = torch.stack([*images[:, :, 0, 0].unbind(1), images[:, 0, 0, 1]], 1)
        yield (first.long() * weights).sum(1).numpy(), labels.numpy()


# -- what is measured ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shuffle:
    """How an order lies to the order on disk."""

    correlation: float
    """Of ranks; 0 for a random order."""
    neighbors: float
    """How far samples that follow each other lie apart, as a share of a third of the set, which is what two drawn at random do."""
    one_shard: float
    """How often they lie in one shard."""


def shuffle_of(order: Any, per_shard: int) -> Shuffle:
    """Args:
    order: every number from 0 on once, ``(N,)``, as they came.
    per_shard: samples of a shard.
    """
    place = np.arange(len(order))
    correlation = float(np.corrcoef(place, order)[0, 1])
    apart = np.abs(np.diff(order))
    return Shuffle(correlation, float(apart.mean() / (len(order) / 3)), float((order[1:] // per_shard == order[:-1] // per_shard).mean()))


@dataclass(frozen=True)
class Walk:
    """An epoch."""

    order: Any
    digest: int
    """Of all samples, whatever their order."""
    grew: int
    """Bytes of resident memory at the end beyond those at a tenth."""
    resident: int


def walk(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], samples: int) -> Walk:
    """A whole epoch: every image as it came is counted in."""
    order, digest, seen, at_tenth = np.empty(samples, np.int64), 0, 0, 0
    images = _Kept(batches)
    for numbered, labels in numbers(images):
        # the last step of ours goes on into the next epoch
        found = numbered[: samples - seen]
        order[seen : seen + len(found)] = found
        seen += len(found)
        for image, label in zip(images.last.flatten(1).numpy()[: len(found)], labels[: len(found)], strict=True):
            digest += zlib.crc32(image.tobytes() + int(label).to_bytes(4, "big"))
        if not at_tenth and seen >= samples // 10:
            at_tenth = resident()
    if seen != samples:
        raise SystemExit(f"an epoch had {seen} samples of {samples}")
    return Walk(order, digest, resident() - at_tenth, resident())


class _Kept:
    """Batches, of which the last is at hand."""

    last: torch.Tensor

    def __init__(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels in self._batches:
            self.last = images
            yield images, labels


def resident() -> int:
    """Bytes of this process that nobody else's file backs: what is mapped of an index is the system's to drop."""
    for line in Path("/proc/self/status").read_text("utf8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("memory is read from /proc/self/status, which this system does not have")


def check_resume(paths: list[Path], samples: int) -> None:
    """A walk that is left and taken up again is the walk that went on."""
    steps = -(-samples // BATCH)
    for first in (1, steps // 3, steps - 2):
        count = min(20, steps - first)
        on = [found.tolist() for found, _ in islice(numbers(ours(paths)), first, first + count)] if first < 50 else None
        again = [found.tolist() for found, _ in numbers(ours(paths, first, count))]
        if on is None:
            # to walk there would read a third of the set again: the order alone says what comes
            from foveal.lab.training.order import Order

            order = Order(samples, BATCH, 0)
            on = [[index for _, index in order.batch(step)] for step in range(first, first + count)]
        if on != again:
            raise SystemExit(f"taken up at step {first}, the walk is another")


def rows(samples: int = SAMPLES, per_shard: int = PER_SHARD, timed: int = TIMED) -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        os.environ["FOVEAL_CACHE"] = str(root / "cache")
        paths = write(root, samples, per_shard)
        start = time.perf_counter()
        next(ours(paths, 0, 1))
        indexed = time.perf_counter() - start
        mine = walk(ours(paths), samples)
        other = walk(theirs(paths), samples)
        if (mine.digest, sorted(mine.order.tolist())) != (other.digest, sorted(other.order.tolist())):
            raise SystemExit("the two sides do not give the same samples: no time is reported")
        check_resume(paths, samples)
        setting = f"{samples:,} images of {SIDE} by {SIDE} in {len(paths)} shards"
        ratio, a, b = _turns(lambda: ours(paths), lambda: theirs(paths), min(timed, samples))
        yield Row(
            "samples a second, shuffled over all / webdataset in a window", f"{setting}; both decode", f"{a:,.0f}", f"{b:,.0f}", ratio, "≥ 1.0 ×", ratio >= 1
        )
        share = mine.grew / mine.resident
        grown = f"{mine.grew / 2**20:+.1f} MB of {mine.resident / 2**20:.0f}"
        theirs_grown = f"{other.grew / 2**20:+.1f} MB of {other.resident / 2**20:.0f}"
        yield Row(
            "memory from a tenth of an epoch to its end, as a share",
            f"{setting}; read in {indexed:.0f} s, once",
            grown,
            theirs_grown,
            share,
            "≤ 0.02",
            share <= 0.02,
        )
        for what, least, most in (("correlation", 0.0, 4 / samples**0.5), ("neighbors", 0.98, 1.02), ("one_shard", 0.0, 1.2 / len(paths) + 4 / samples**0.5)):
            words = {"correlation": "rank correlation with the order on disk", "neighbors": "distance of neighbors, of that of random ones"}
            values = [getattr(shuffle_of(one.order, per_shard), what) for one in (mine, other)]
            value = abs(values[0])
            target = f"≤ {most:.4f}" if not least else f"{least} to {most}"
            name = words.get(what, "neighbors in one shard")
            yield Row(f"shuffling: {name}", setting, f"{values[0]:.4f}", f"{values[1]:.4f}", value, target, least <= value <= most)


def _turns(ours: Callable[[], Any], theirs: Callable[[], Any], samples: int) -> tuple[float, float, float]:
    """The median of the ratios of both speeds, turn by turn, and the medians of both."""
    pairs = [(_speed(ours(), samples), _speed(theirs(), samples)) for _ in range(TURNS)]
    return median(a / b for a, b in pairs), median(a for a, _ in pairs), median(b for _, b in pairs)


def _speed(batches: Iterator[Any], samples: int) -> float:
    """Behind a few batches, in which windows are filled."""
    for _ in range(5):
        next(batches)
    start, seen = time.perf_counter(), 0
    for images, _ in batches:
        seen += len(images)
        if seen >= samples:
            break
    return seen / (time.perf_counter() - start)
