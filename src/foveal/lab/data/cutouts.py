"""Photographs of ten kinds of things, cut out, on backgrounds of smooth color: Tux Paint's stamps (Debian: tuxpaint-stamps-default, GPL-2).

The things are real, the scenes composed. 229 files are few: give several seeds, and the spread. Splits are by file, so no thing is in two of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..._errors import InputError
from ._bundle import Data, DataBundle, register_data, seed_of
from ._fetch import find
from ._image import open_picture, rgb
from .digits import Digits, split_by_class
from .folder import _MEAN, _STD

__all__ = ["CLASSES", "Cutouts", "list_cutouts", "split_cutouts", "square_photo"]

CLASSES = {
    "bird": "animals/birds",
    "mammal": "animals/mammals",
    "fish": "animals/fish",
    "insect": "animals/insects",
    "fruit": "food/fruit",
    "vegetable": "food/vegetables",
    "flower": "plants/flowers",
    "tool": "household/tools",
    "music": "hobbies/music",
    "vehicle": "vehicles",
}
"""Folders of the package."""


def list_cutouts(folder: Path | None = None) -> tuple[list[Path], list[int]]:
    """Files and classes, in a fixed order. Drawings are left out, and mirrored copies, which would be in two splits.

    Raises:
        ValueError: the package was not fetched, or a class has no file.
    """
    folder = find("tuxpaint-stamps") if folder is None else folder
    files, labels = [], []
    for label, (name, below) in enumerate(CLASSES.items()):
        members = [path for path in sorted((folder / below).rglob("*.png")) if "cartoon" not in path.parts and not path.stem.endswith("_mirror")]
        if not members:
            raise InputError(f"{folder / below} holds no cut-outs of the class {name}; expected the folder of Tux Paint's stamps")
        files += members
        labels += [label] * len(members)
    return files, labels


def split_cutouts(folder: str | None, seed: int) -> dict[str, tuple[list[Path], list[int]]]:
    """Files and classes of ``train``, ``val`` and ``test``, 60 / 15 / 25 by file in every class.

    Raises:
        ValueError: as in :func:`list_cutouts`.
    """
    files, labels = list_cutouts(None if folder is None else Path(folder))
    order = np.asarray(labels)
    parts = split_by_class(order, (0.6, 0.15, 0.25), np.random.default_rng(seed_of("cutouts", seed)))
    return {name: ([files[i] for i in part], order[part].tolist()) for name, part in zip(("train", "val", "test"), parts, strict=True)}


def square_photo(side: int) -> Callable[[Any], Tensor]:
    """Prepares images for the sets of cut-outs: color, ``side × side``, standardized."""

    def prepare(image: Any) -> Tensor:
        small = rgb(image).resize((side, side))
        return _standardize(torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).permute(2, 0, 1))

    return prepare


@register_data
@dataclass(frozen=True, kw_only=True)
class Cutouts(Data):
    """Ten classes of cut-out photographs; split 60 / 15 / 25 by file in every class. Training scenes are drawn anew each time.

    Get the photographs with ``foveal.lab.data.fetch("tuxpaint-stamps")``.

    Raises:
        ValueError: the package was not fetched; numbers that make no scene.
    """

    package: ClassVar[str] = "tuxpaint-stamps"

    img_size: int = 112
    """Side of a scene in pixels."""
    views: int = 4
    """Scenes of each file."""
    folder: str | None = None
    """Of the stamps; where the package is installed or was fetched if None."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if self.img_size < 8 or self.views < 1:
            raise InputError(f"expected img_size of at least 8 and at least one view, got {self}")

    def load(self) -> DataBundle:
        parts = split_cutouts(self.folder, self.seed)
        train, val, test = (_Scenes(self, name, files, labels, augments=name == "train") for name, (files, labels) in parts.items())
        return DataBundle(
            train=train,
            val=val,
            test=test,
            classes=list(CLASSES),
            img_size=self.img_size,
            in_chans=3,
            prepare=square_photo(self.img_size),
            notes=["scenes are composed: cut-out photographs on smooth color"],
        )

    def smoke_data(self) -> Data:
        """Digits: cut-outs are fetched."""
        return Digits()


class _Scenes:
    """A split. Where it does not augment, a scene depends on the seed, the split and its index alone."""

    def __init__(self, settings: Cutouts, split: str, files: list[Path], labels: list[int], augments: bool) -> None:
        self._settings, self._split, self.augments = settings, split, augments
        self._cutouts = [_read(path, settings.img_size) for path in files]
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels) * self._settings.views

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        seed = int(torch.randint(2**62, ())) if self.augments else seed_of("scene", self._settings.seed, self._split, index)
        file = index % len(self._labels)
        return _standardize(_compose(self._cutouts[file], self._settings.img_size, np.random.default_rng(seed))), self._labels[file]


def _read(path: Path, side: int) -> Tensor:
    """Color and alpha, ``(4, h, w)`` in 0 to 1, cut to what is seen, the longer side ``side``."""
    image = open_picture(path, hint="fetch it again").image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = side / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)


def fitted(cutout: Tensor, longest: int, *, mirrored: bool) -> Tensor:
    """Color weighted by alpha, and alpha, ``(4, h, w)``: what lies under full transparency has any color, and would bleed into the rim.

    Args:
        cutout: color and alpha.
        longest: its longer side then.
        mirrored: left and right exchanged.
    """
    scale = longest / max(cutout.shape[1:])
    height, width = (max(1, round(n * scale)) for n in cutout.shape[1:])
    weighted = torch.cat([cutout[:3] * cutout[3:], cutout[3:]])
    small = torch.nn.functional.interpolate(weighted[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    return small.flip(-1) if mirrored else small


def _compose(cutout: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """At half to nine tenths of the side, anywhere inside, mirrored or not."""
    small = fitted(cutout, int(side * rng.uniform(0.5, 0.9)), mirrored=bool(rng.random() < 0.5))
    height, width = small.shape[1:]
    coarse = torch.from_numpy(rng.random((1, 3, 3, 3), dtype=np.float32))
    scene = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)[0]
    top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    window = scene[:, top : top + height, left : left + width]
    window.copy_(small[:3] + (1 - small[3:]) * window)
    return scene.clamp(0, 1)


def _standardize(image: Tensor) -> Tensor:
    return (image - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
