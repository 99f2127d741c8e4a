"""The benchmarks of semantic segmentation, as their archives unpack.

``PascalVOC``   VOCdevkit/VOC2012; with ``SegmentationClassAug`` and ``ImageSets/Segmentation/trainaug.txt`` the 10,582 images of Hariharan et al. 2011
``ADE20K``      ADEChallengeData2016, 150 classes
``Cityscapes``  leftImg8bit and gtFine, 19 classes
``ISPRS``       Vaihingen or Potsdam tiles, colored masks, with or without eroded borders
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...._errors import InputError
from .._bundle import register_data
from .._foreign import lines_of, read_text
from .._walk import Passed, is_hidden
from . import _miniature
from ._bundle import IGNORE
from ._files import MaskPairs, Pair, need_folder
from ._labels import Labels

__all__ = ["ADE20K", "ISPRS", "Cityscapes", "PascalVOC"]

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog", "horse", "motorbike"),
    *("person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)


@register_data
@dataclass(frozen=True, kw_only=True)
class PascalVOC(MaskPairs):
    """PASCAL VOC 2012: ``root`` is the folder that holds JPEGImages. Test masks are not public; the final numbers are those of val."""

    img_size: int = 513
    train_list: Literal["train", "trainval", "trainaug"] = "trainaug"
    """List of training images; trainaug needs the augmented masks."""

    def labels(self) -> Labels:
        return Labels(VOC_CLASSES)

    def pairs(self, passed: Passed) -> dict[str, list[Pair]]:
        return {"train": self._listed(self.train_list), "val": self._listed("val")}

    def smoke_data(self) -> "PascalVOC":
        """Pieces of the image of nuclei in the same format."""
        return replace(self, root=_miniature.voc(), img_size=33)

    def _listed(self, name: str) -> list[Pair]:
        root = Path(self.root)
        lists = need_folder(root / "ImageSets" / "Segmentation", f"PASCAL VOC 2012 as it unpacks: {root} with JPEGImages, SegmentationClass and ImageSets")
        masks = root / ("SegmentationClassAug" if name == "trainaug" else "SegmentationClass")
        file = lists / f"{name}.txt"
        if not file.exists():
            hint = "; it comes with the masks of Hariharan et al., or take --data.train-list train" if name == "trainaug" else ""
            raise InputError(f"{file} does not exist{hint}")
        # the lists of the augmented set name both files, the others the image alone
        names = [Path(line.split()[0]).stem for line in lines_of(read_text(file)) if line.strip()]
        pairs = [(root / "JPEGImages" / f"{stem}.jpg", masks / f"{stem}.png") for stem in names]
        # single ones that are missing are left out and named; where all are, it is the list that is wrong. A name may be one that no file can have
        if not any(os.path.exists(image) for image, _ in pairs):
            what = f"names {names[0][:60]!r}, and neither it nor another of its {len(names)} is in {root / 'JPEGImages'}" if names else "names no image"
            raise InputError(f"{file} {what}; expected the name of an image a line")
        return pairs


@register_data
@dataclass(frozen=True, kw_only=True)
class ADE20K(MaskPairs):
    """ADE20K of the 2016 scene parsing challenge: value 0 is unlabeled, 1 to 150 are the classes."""

    def labels(self) -> Labels:
        file = Path(self.root) / "objectInfo150.txt"
        names = tuple(f"class {number}" for number in range(1, 151))
        if os.path.lexists(file):
            # tab-separated under one line of heads; the last column holds names, the first of them is the usual one
            names = tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines_of(read_text(file))[1:] if line.strip())
            if len(set(names)) != 150:
                names = tuple(f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1))
        if len(names) != 150:
            raise InputError(f"{file} names {len(names)} classes; expected 150")
        return Labels(names, codes={0: IGNORE, **{number: number - 1 for number in range(1, 151)}})

    def pairs(self, passed: Passed) -> dict[str, list[Pair]]:
        return {"train": self._part("training", passed), "val": self._part("validation", passed)}

    def smoke_data(self) -> "ADE20K":
        """Pieces of the image of nuclei in the same format."""
        return replace(self, root=_miniature.ade20k(), img_size=32)

    def _part(self, name: str, passed: Passed) -> list[Pair]:
        images = need_folder(Path(self.root) / "images" / name, "ADEChallengeData2016 as it unpacks, with images/training and annotations/training")
        masks = Path(self.root) / "annotations" / name
        return [(file, masks / f"{file.stem}.png") for file in _visible(images.glob("*.jpg"), passed)]


CITY_CLASSES = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19, "traffic sign": 20, "vegetation": 21},
    **{"terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
"""Those that are evaluated, with their ids in ``labelIds`` files."""
CITY_COLORS = (
    *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35)),
    *((152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
)


@register_data
@dataclass(frozen=True, kw_only=True)
class Cityscapes(MaskPairs):
    """Cityscapes with fine masks. Test masks are not public; the final numbers are those of val."""

    img_size: int = 768

    def labels(self) -> Labels:
        # ids run to 33, and −1, the license plate, is stored as what is left of it in the file
        codes = dict.fromkeys((*range(34), 255), IGNORE) | {value: number for number, value in enumerate(CITY_CLASSES.values())}
        return Labels(tuple(CITY_CLASSES), codes=codes, palette=CITY_COLORS)

    def pairs(self, passed: Passed) -> dict[str, list[Pair]]:
        return {"train": self._part("train", passed), "val": self._part("val", passed)}

    def smoke_data(self) -> "Cityscapes":
        """Pieces of the image of nuclei in the same format."""
        return replace(self, root=_miniature.cityscapes(tuple(CITY_CLASSES.values())), img_size=32)

    def _part(self, name: str, passed: Passed) -> list[Pair]:
        images = need_folder(Path(self.root) / "leftImg8bit" / name, "Cityscapes as it unpacks, with leftImg8bit/train/CITY and gtFine/train/CITY")
        masks = Path(self.root) / "gtFine" / name
        ending = "_leftImg8bit.png"
        return [(file, masks / file.parent.name / file.name.replace(ending, "_gtFine_labelIds.png")) for file in _visible(images.glob(f"*/*{ending}"), passed)]


ISPRS_COLORS = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}
ISPRS_TEST = {
    "vaihingen": ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38"),
    "potsdam": ("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
}
"""The benchmark's own test tiles; all others are for training."""
ISPRS_VAL = {"vaihingen": ("30",), "potsdam": ("2_10",)}
"""One training tile, kept for validation: our choice."""


@register_data
@dataclass(frozen=True, kw_only=True)
class ISPRS(MaskPairs):
    """Vaihingen or Potsdam: ``root/images`` and ``root/masks`` hold the tiles, whose names hold their number (``area30``, ``potsdam_2_10``).

    Borders between classes that the eroded masks show in black are known to nobody. Tiles are large: evaluate them by windows.
    """

    city: Literal["vaihingen", "potsdam"] = "vaihingen"
    """Which of the two sets."""

    def labels(self) -> Labels:
        colors = {color: number for number, color in enumerate(ISPRS_COLORS.values())} | {(0, 0, 0): IGNORE}
        return Labels(tuple(ISPRS_COLORS), colors=colors, palette=tuple(ISPRS_COLORS.values()), unscored=("clutter",))

    def pairs(self, passed: Passed) -> dict[str, list[Pair]]:
        known = f"{self.root} with images/ and masks/, tiles named as the ISPRS names them"
        images, masks = (self._tiles(need_folder(Path(self.root) / part, known), passed) for part in ("images", "masks"))
        alone = sorted(set(images) - set(masks))
        if alone:
            raise InputError(f"{images[alone[0]]} has no mask under {Path(self.root) / 'masks'}")
        out: dict[str, list[Pair]] = {"train": [], "val": [], "test": []}
        for tile in sorted(images):
            part = "test" if tile in ISPRS_TEST[self.city] else "val" if tile in ISPRS_VAL[self.city] else "train"
            out[part].append((images[tile], masks[tile]))
        return {name: part for name, part in out.items() if part or name != "test"}

    def smoke_data(self) -> "ISPRS":
        """Pieces of the image of nuclei as tiles of the city."""
        made = _miniature.isprs(self.city, tuple(ISPRS_COLORS.values()), ISPRS_VAL[self.city], ISPRS_TEST[self.city])
        return replace(self, root=made, img_size=32)

    def _tiles(self, folder: Path, passed: Passed) -> dict[str, Path]:
        pattern = r"area(\d+)" if self.city == "vaihingen" else r"potsdam_0?(\d+_\d+)"
        found: dict[str, Path] = {}
        for file in _visible(folder.iterdir(), passed):
            match = re.search(pattern, file.name)
            if match is None or file.suffix.lower() not in (".tif", ".png"):
                passed.add("not named as a tile", file)
            elif match[1] in found:
                raise InputError(f"{found[match[1]]} and {file} are both the tile {match[1]}; keep one")
            else:
                found[match[1]] = file
        if not found:
            raise InputError(f"{folder} holds no tile of {self.city}; expected names such as {'top_mosaic_09cm_area30.tif, top_potsdam_2_10_RGB.tif'}")
        return found


def _visible(files: Iterable[Path], passed: Passed) -> Iterator[Path]:
    for file in sorted(files):
        if is_hidden(file.name):
            passed.add("hidden or left behind by a system", file)
        else:
            yield file
