"""Miniatures of segmentation sets, in their own formats: pieces of the image of nuclei, in which every nucleus is given a class of the set."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._miniature import miniature, save
from .embedded import read_nuclei

__all__ = ["Kinds", "ade20k", "cityscapes", "isprs", "mask_folder", "voc"]

HEIGHT, WIDTH = 40, 56
"""Of the pieces: neither square nor of any stride."""
TRAIN, EVALUATE = 12, 2
"""Pieces of the parts."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Kinds:
    """What is written for a pixel: of the background, of nuclei in turn, and of the rim of a nucleus, which nobody knows; numbers, or colors."""

    background: Any
    things: Sequence[Any]
    rim: Any

    def values(self, numbers: Pixels) -> Pixels:
        """For instance numbers ``(H, W)``, bytes ``(H, W)`` or ``(H, W, 3)``."""
        table = np.asarray([self.background, *self.things, self.rim], np.uint8)
        place = np.where(numbers > 0, 1 + numbers % len(self.things), 0)
        place[_rim(numbers)] = len(table) - 1
        return table[place]


def _rim(numbers: Pixels) -> Pixels:
    """Pixels of a nucleus beside which, above or below, is something else."""
    padded = np.pad(numbers, 1, mode="edge")
    shifts = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (numbers > 0) & np.any([shift != numbers for shift in shifts], axis=0)


def _pieces(count: int, left: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Images ``(H, W, 3)`` of bytes and instance numbers, row by row from a column on."""
    image, numbers = read_nuclei()
    across = (256 - WIDTH) // WIDTH + 1
    for index in range(count):
        top, start = (index // across) * HEIGHT, left + (index % across) * WIDTH
        place = np.s_[top : top + HEIGHT, start : start + WIDTH]
        gray = (255 * image[place]).round().astype(np.uint8)
        yield np.stack([gray] * 3, -1), numbers[place]


def _write(root: Path, parts: dict[str, tuple[int, int]], kinds: Kinds, files: Callable[[str, int], Sequence[tuple[str, bool]]], palette: Any = None) -> None:
    """Args: how many pieces of which column by part; what values mean; for a part and a number the files below ``root``, and whether they are masks."""
    for part, (count, left) in parts.items():
        for number, (image, numbers) in enumerate(_pieces(count, left)):
            for name, is_mask in files(part, number):
                save(root / name, kinds.values(numbers) if is_mask else image, palette=palette if is_mask else None)


def voc() -> Path:
    """VOC2012, with the masks of the augmented set and all lists."""

    def files(part: str, number: int) -> list[tuple[str, bool]]:
        stem = f"2007_{number:06}" if part == "train" else f"2008_{number:06}"
        return [(f"JPEGImages/{stem}.jpg", False), (f"SegmentationClass/{stem}.png", True), (f"SegmentationClassAug/{stem}.png", True)]

    def write(root: Path) -> None:
        _write(root, {"train": (TRAIN, 0), "val": (EVALUATE, 256)}, Kinds(0, range(1, 21), 255), files, palette=[number % 256 for number in range(768)])
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        train, val = ([f"2007_{n:06}" for n in range(TRAIN)], [f"2008_{n:06}" for n in range(EVALUATE)])
        named = {
            "train": train,
            "val": val,
            "trainval": train + val,
            "trainaug": [f"/JPEGImages/{stem}.jpg /SegmentationClassAug/{stem}.png" for stem in train],
        }
        for name, lines in named.items():
            (lists / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf8")

    return miniature("voc", write)


def ade20k() -> Path:
    """ADEChallengeData2016."""

    def files(part: str, number: int) -> list[tuple[str, bool]]:
        stem = f"{part}/ADE_{part[:5]}_{number:08}"
        return [(f"images/{stem}.jpg", False), (f"annotations/{stem}.png", True)]

    parts = {"training": (TRAIN, 0), "validation": (EVALUATE, 256)}
    return miniature("ade20k", lambda root: _write(root, parts, Kinds(1, range(2, 151), 0), files))


def cityscapes(ids: Sequence[int]) -> Path:
    """leftImg8bit and gtFine of one city in each part.

    Args:
        ids: of the classes that are evaluated.
    """

    def files(part: str, number: int) -> list[tuple[str, bool]]:
        stem = f"town_{number:06}_000019"
        return [(f"leftImg8bit/{part}/town/{stem}_leftImg8bit.png", False), (f"gtFine/{part}/town/{stem}_gtFine_labelIds.png", True)]

    parts = {"train": (TRAIN, 0), "val": (EVALUATE, 256)}
    return miniature("cityscapes", lambda root: _write(root, parts, Kinds(ids[0], ids[1:], 0), files))


def isprs(city: str, colors: Sequence[tuple[int, int, int]], val: Sequence[str], test: Sequence[str]) -> Path:
    """Tiles of a city with masks of eroded borders.

    Args:
        city: ``vaihingen`` or ``potsdam``.
        colors: of the classes.
        val: tiles of the validation.
        test: tiles of the test.
    """
    other = {"vaihingen": "1 3 5 7 11 13 15 17 21 23 26 28", "potsdam": "2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7"}[city].split()
    tiles = {"train": other[:TRAIN], "val": [*val][:1], "test": [*test][:1]}

    def files(part: str, number: int) -> list[tuple[str, bool]]:
        tile = tiles[part][number]
        name = f"top_mosaic_09cm_area{tile}" if city == "vaihingen" else f"top_potsdam_{tile}_RGB"
        return [(f"images/{name}.tif", False), (f"masks/{name}_noBoundary.tif", True)]

    def write(root: Path) -> None:
        _write(root, {part: (len(names), 0 if part == "train" else 256) for part, names in tiles.items()}, Kinds(colors[0], colors[1:], (0, 0, 0)), files)

    return miniature(f"isprs-{city}", write)


def mask_folder() -> Path:
    """Images and masks of two classes, in train and val."""

    def files(part: str, number: int) -> list[tuple[str, bool]]:
        return [(f"{part}/images/{number}.jpg", False), (f"{part}/masks/{number}.png", True)]

    return miniature("mask-folder", partial(_write, parts={"train": (TRAIN, 0), "val": (EVALUATE, 256)}, kinds=Kinds(0, [1], 255), files=files))
