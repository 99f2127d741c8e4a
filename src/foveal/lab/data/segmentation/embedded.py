"""Real images with masks that wheels carry. Nothing is downloaded when they are read.

``Nuclei``      a fluorescence image of 125 cell nuclei with instance masks, 512×512, in the ``stardist`` wheel (BSD-3)
``BrainSlabs``  the MNI152 T1 brain template with maps of gray and white matter, 1 mm, in the ``nilearn`` wheel (code BSD; the template's license is not stated:
                install it, do not pass it on)

Each is one image. Parts of it that share no nucleus and no slice train and test, so numbers say how well a network learns it, and nothing of other cells or
patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError, missing_extra
from .._bundle import Data, register_data
from .._fetch import packaged
from ._bundle import IGNORE, SegmentationBundle

__all__ = ["BrainSlabs", "Nuclei", "read_brain", "read_nuclei"]

Pixels = NDArray[np.float32]
Mask = NDArray[np.uint8]


@lru_cache(maxsize=1)
def read_nuclei() -> tuple[Pixels, NDArray[np.int64]]:
    """The image, 0 to 1, and which nucleus each pixel belongs to, 0 for none; ``(512, 512)`` both.

    Raises:
        ValueError: the package that holds them is not installed.
    """
    try:
        from skimage import io
    except ImportError as error:
        raise missing_extra("scikit-image", "data", "the nuclei") from error
    image, mask = (io.imread(packaged("stardist", "data", "images", name, what="the image of nuclei")) for name in ("img2d.tif", "mask2d.tif"))
    return image.astype(np.float32) / 255, mask.astype(np.int64)


@lru_cache(maxsize=1)
def read_brain() -> tuple[Pixels, Mask]:
    """The T1 volume, 0 to 1, and tissue: 0 outside, 1 other, 2 gray, 3 white; ``(197, 233, 189)`` both, the last axis from below to above.

    Gray or white is what the larger of the two maps says where it is at least one half.

    Raises:
        ValueError: a package that holds or reads them is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise missing_extra("nibabel", "data", "the brain") from error
    volumes = []
    for kind in ("t1", "gm", "wm"):
        name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        volume: Any = nibabel.load(packaged("nilearn", "datasets", "data", name, what="the brain template"))
        volumes.append(np.asarray(volume.dataobj, dtype=np.float32) / np.float32(255))
    image, gray, white = volumes
    tissue = (image > 0).astype(np.uint8)
    tissue[(gray >= 0.5) & (gray >= white)] = 2
    tissue[(white >= 0.5) & (white > gray)] = 3
    return image, tissue


@register_data
@dataclass(frozen=True, kw_only=True)
class Nuclei(Data):
    """Nucleus or not, in one image: the left half trains, the upper right quarter validates, the lower right tests, in tiles of ``img_size``.

    Some nuclei lie across these borders. A margin as wide as they reach, of the left half and of the upper quarter, shows the image's mean and is not judged,
    so that no nucleus is in two parts.

    Raises:
        ValueError: a size that does not divide 256.
    """

    targets: ClassVar[str] = "masks"
    package: ClassVar[str] = "stardist"

    img_size: int = 128
    """Side of the tiles and crops in pixels; it divides 256."""
    crops: int = 64
    """Random crops of an epoch."""

    def __post_init__(self) -> None:
        if self.img_size < 8 or 256 % self.img_size or self.crops < 1:
            raise InputError(f"expected img_size of 8 to 256 that divides 256, and at least one crop, got {self.img_size} and {self.crops}")

    def load(self) -> SegmentationBundle:
        return self._tiled((read_nuclei()[1] > 0).astype(np.uint8), withheld=IGNORE)

    def load_instances(self) -> SegmentationBundle:
        """The same tiles, with numbers of nuclei in the place of classes."""
        return self._tiled(read_nuclei()[1], withheld=0)

    def _tiled(self, mask: NDArray[Any], withheld: int) -> SegmentationBundle:
        image, numbers = read_nuclei()
        column, across = _margin(numbers[:, :256], numbers[:, 256:])
        row, over = _margin(numbers[:256, 256:].T, numbers[256:, 256:].T)
        left = image[:, :column]
        mean, deviation = float(left.mean()), float(left.std())
        standard, mask = (image - mean) / deviation, mask.copy()
        for margin in (np.s_[:, column:256], np.s_[row:256, 256:]):
            standard[margin], mask[margin] = 0, withheld

        def tiles(top: int) -> _Slices:
            side = self.img_size
            places = [np.s_[y : y + side, x : x + side] for y in range(top, top + 256, side) for x in range(256, 512, side)]
            return _Slices([standard[place] for place in places], [mask[place] for place in places])

        return SegmentationBundle(
            train=_Crops(standard[:, :256], mask[:, :256], self.img_size, self.crops),
            val=tiles(0),
            test=tiles(256),
            classes=["background", "nucleus"],
            img_size=self.img_size,
            in_chans=1,
            prepare=_gray(mean, deviation),
            notes=[
                "train and test are parts of one image: the numbers say nothing of other cells",
                f"{across} nuclei lie across the border of train and {over} across that of val and test: "
                f"{256 - column} columns of train and {256 - row} rows of val are withheld for them",
            ],
            palette=((20, 20, 30), (90, 200, 130)),
        )


@register_data
@dataclass(frozen=True, kw_only=True)
class BrainSlabs(Data):
    """Tissues in horizontal slices of one averaged brain. Slabs of slices train, validate and test in turn, with slices left out between them.

    Raises:
        ValueError: slabs without slices.
    """

    targets: ClassVar[str] = "masks"
    package: ClassVar[str] = "nilearn"

    slab: int = 8
    """Slices of a slab."""
    gap: int = 3
    """Slices left out between slabs, so that no two alike lie on both sides."""
    first: int = 30
    """First slice that is used."""
    last: int = 160
    """Slices between which the brain is large."""

    def __post_init__(self) -> None:
        if self.slab < 1 or self.gap < 0 or not 0 <= self.first < self.last <= 189 or self.last - self.first < 4 * (self.slab + self.gap):
            raise InputError(f"expected slabs of at least one slice and room for four of them among the slices 0 to 189, got {self}")

    def load(self) -> SegmentationBundle:
        image, tissue = read_brain()
        parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for number, start in enumerate(range(self.first, self.last - self.slab + 1, self.slab + self.gap)):
            parts[("train", "val", "train", "test")[number % 4]] += range(start, start + self.slab)
        mean, deviation = 0.16, 0.26

        def slices(name: str) -> "_Slices":
            # a square of 192 holds all of the brain but its outermost millimeters; lying so that the front is up
            turned = [(np.rot90(image[3:195, 20:212, z]), np.rot90(tissue[3:195, 20:212, z])) for z in parts[name]]
            return _Slices([(picture - mean) / deviation for picture, _ in turned], [mask for _, mask in turned], augments=name == "train")

        return SegmentationBundle(
            train=slices("train"),
            val=slices("val"),
            test=slices("test"),
            classes=["outside", "fluid and other", "gray matter", "white matter"],
            img_size=192,
            in_chans=1,
            prepare=_gray(mean, deviation),
            notes=["slices of one averaged brain: the numbers say nothing of patients"],
            palette=((20, 20, 30), (70, 130, 200), (150, 150, 150), (240, 230, 200)),
        )


def _margin(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[int, int]:
    """The column of ``first`` from which on nuclei are met that ``second``, to its right, shows too; and how many these are."""
    both = np.intersect1d(first[first > 0], second[second > 0])
    columns = np.flatnonzero(np.isin(first, both).any(axis=0))
    return (int(columns[0]) if len(columns) else first.shape[1]), len(both)


class _Slices:
    """Images as they are; in training mirrored, and brighter or darker."""

    def __init__(self, images: Sequence[Pixels], masks: Sequence[NDArray[Any]], *, augments: bool = False) -> None:
        self.augments = augments
        self._images = [np.ascontiguousarray(image, dtype=np.float32) for image in images]
        self._masks = [np.ascontiguousarray(mask) for mask in masks]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self._images[index], self._masks[index]
        return _varied(image, mask) if self.augments else (torch.from_numpy(image)[None], torch.from_numpy(mask).long())


class _Crops:
    """Random crops of one image, turned and mirrored."""

    augments = True

    def __init__(self, image: Pixels, mask: NDArray[Any], side: int, count: int) -> None:
        # of small numbers, a whole mask stays in the processor's cache
        self._image, self._mask = image.astype(np.float32), mask.astype(np.min_scalar_type(mask.max()))
        self._side, self._count = side, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        height, width = self._mask.shape
        y, x = (int(torch.randint(room - self._side + 1, ())) for room in (height, width))
        window = np.s_[y : y + self._side, x : x + self._side]
        turns = int(torch.randint(4, ()))
        return _varied(np.rot90(self._image[window], turns), np.rot90(self._mask[window], turns))


def _varied(image: Pixels, mask: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Mirrored or not, brighter or darker. In NumPy turned and mirrored images are views, so that each is copied once."""
    if torch.rand(()).item() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    gain, shift = (np.float32(0.2) * np.float32(2 * torch.rand(()).item() - 1) for _ in range(2))
    varied = np.multiply(image, 1 + gain, order="C")
    varied += shift
    return torch.from_numpy(varied)[None], torch.from_numpy(mask.astype(np.int64, order="C"))


def _gray(mean: float, deviation: float) -> Callable[[Any], Tensor]:
    """Prepares an image of any size."""

    def prepare(image: Any) -> Tensor:
        pixels = np.asarray(image.convert("L"), dtype=np.float32) / 255
        return torch.from_numpy((pixels - mean) / deviation)[None].float()

    return prepare
