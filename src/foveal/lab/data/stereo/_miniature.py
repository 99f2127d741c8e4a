"""Miniatures of stereo sets, in their own formats: made pairs of shifted photographs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .._miniature import miniature, save
from ._bundle import Pixels
from .shifts import ShiftStereo

__all__ = ["CROP", "kitti", "middlebury", "scene_flow"]

HEIGHT, WIDTH, MOST = 48, 80, 24
"""Size of a pair, and what its disparities stay below."""
CROP = (32, 64)
"""For training."""


def _pairs(count: int) -> Iterator[tuple[Pixels, Pixels, Pixels]]:
    """Left and right ``(H, W, 3)`` of bytes, and disparity ``(H, W)``."""
    made = ShiftStereo(crop=(HEIGHT, WIDTH), max_disparity=MOST, train_pairs=1, val_pairs=count).load().val
    for index in range(count):
        pair, _ = made.pair(index)  # type: ignore[attr-defined]
        left, right = ((255 * view).round().astype(np.uint8) for view in (pair.left, pair.right))
        yield left, right, pair.disparity


def _pfm(path: Path, values: Pixels) -> None:
    """Gray PFM: rows from below, a negative scale for little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode() + values[::-1].astype("<f4").tobytes())


def scene_flow(variants: tuple[str, ...], pass_name: str) -> Path:
    """Twelve pairs to train with and two tests of FlyingThings3D; of each other part two."""

    def write(root: Path) -> None:
        # FlyingThings3D tells its parts apart by folders, the others have scenes; Driving has them three folders deep
        scenes = {
            "FlyingThings3D": [*(f"TRAIN/A/{n:04}" for n in range(12)), "TEST/A/0000", "TEST/A/0001"],
            "Monkaa": ["a_rain_of_stones_x2", "eating_x2"],
            "Driving": ["35mm_focallength/scene_forwards/fast", "35mm_focallength/scene_forwards/slow"],
        }
        wanted = [(variant, scene) for variant in variants for scene in scenes[variant]]
        for (variant, scene), (left, right, disparity) in zip(wanted, _pairs(len(wanted)), strict=True):
            base = root / "SceneFlow" / variant
            for side, image in (("left", left), ("right", right)):
                save(base / f"frames_{pass_name}pass" / scene / side / "0006.png", image)
                _pfm(base / "disparity" / scene / side / "0006.pfm", disparity)

    return miniature(f"scene-flow-{'-'.join(variants)}-{pass_name}", write)


def kitti(year: int, count: int = 14) -> Path:
    """Pairs of the training part; every fourth pixel is known, as behind a laser scanner."""

    def write(root: Path) -> None:
        base = root / f"Kitti{year}" / "training"
        views = ("image_2", "image_3") if year == 2015 else ("colored_0", "colored_1")
        for number, (left, right, disparity) in enumerate(_pairs(count)):
            known = np.zeros_like(disparity)
            known[::2, ::2] = disparity[::2, ::2]
            for frame in (10, 11):
                for folder, image in zip(views, (left, right), strict=True):
                    save(base / folder / f"{number:06}_{frame}.png", image)
            for folder in ("disp_occ_0", "disp_occ_1") if year == 2015 else ("disp_noc",):
                save(base / folder / f"{number:06}_10.png", (256 * known).round().astype(np.uint16))

    return miniature(f"kitti-{year}-{count}", write)


def middlebury() -> Path:
    """Ten additional scenes and two of the benchmark's training scenes."""
    return miniature("middlebury", _middlebury)


def _middlebury(root: Path) -> None:
    names = {
        "train": ("Adirondack", "Piano"),
        "additional": ("Backpack", "Bicycle1", "Cable", "Classroom1", "Couch", "Flowers", "Mask", "Shopvac", "Sticks", "Storage"),
    }
    folders = [root / "Middlebury2014" / split / f"{name}-perfect" for split, scenes in names.items() for name in scenes]
    for folder, (left, right, disparity) in zip(folders, _pairs(len(folders)), strict=True):
        for number, image in enumerate((left, right)):
            save(folder / f"im{number}.png", image)
            _pfm(folder / f"disp{number}.pfm", disparity)
