"""Sets that are pairs of files, an image and a mask, with the joint augmentation of segmentation."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..._errors import InputError
from .._bundle import Data
from .._together import Together, vision
from ..folder import _MEAN, _rgb
from ._bundle import IGNORE, SegmentationBundle
from ._labels import Labels, Mask, read_mask

__all__ = ["MaskPairs", "Pair", "need_folder"]

Pair = tuple[Path, Path]


@dataclass(frozen=True, kw_only=True)
class MaskPairs(Data):
    """What sets of image and mask files share. Training sees scaled, mirrored crops; evaluation the images in their own size.

    Raises:
        ValueError: files or folders are missing; an image and its mask differ in size; a mask holds what means nothing.
    """

    targets: ClassVar[str] = "masks"

    root: Path
    """Folder of the images and masks."""
    img_size: int = 512
    """Side of the training crops; smaller images are padded with pixels of no class."""
    min_scale: float = 0.5
    """Smallest factor that training images are resized by."""
    max_scale: float = 2.0
    """Largest factor that training images are resized by."""
    jitter: float = 0.0
    """Strength of random changes of brightness, contrast and saturation."""
    check: bool = True
    """Decode every pair once at the start, to leave out the broken ones. Without it a broken file stops the run with its name."""

    def __post_init__(self) -> None:
        if self.img_size < 1 or not 0 < self.min_scale <= self.max_scale or not 0 <= self.jitter < 1:
            raise InputError(f"expected img_size of at least 1, 0 < min_scale ≤ max_scale and 0 ≤ jitter < 1, got {self}")

    @abstractmethod
    def labels(self) -> Labels:
        """Classes, and what the masks' values mean."""

    @abstractmethod
    def pairs(self) -> dict[str, list[Pair]]:
        """Files of ``train``, ``val`` and, where there is one, ``test``."""

    def load(self) -> SegmentationBundle:
        labels = self.labels()
        notes: list[str] = []
        pairs = self.pairs()
        if self.check:
            pairs = {name: _readable(part, labels, notes) for name, part in pairs.items()}
        for name, part in pairs.items():
            if not part:
                raise InputError(f"{self.root}: there is no image with a mask in {name}")
        train, evaluate = self._transforms()
        built = {name: _Files(part, labels, train if name == "train" else evaluate, augments=name == "train") for name, part in pairs.items()}
        if "test" not in built:
            notes.append("there is no test split with masks: the final numbers are those of val")
        return SegmentationBundle(
            train=built["train"],
            val=built["val"],
            test=built.get("test", built["val"]),
            classes=list(labels.classes),
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(_rgb(image))[0],
            notes=notes,
            palette=labels.palette,
            unscored=labels.unscored,
        )

    def _transforms(self) -> tuple[Together, Together]:
        v2, tv_tensors = vision("segmentation of image files")
        # padding has the colour of the mean, which is 0 behind the standardisation
        fill = {tv_tensors.Image: [round(255 * value) for value in _MEAN], tv_tensors.Mask: IGNORE}
        crop = v2.RandomCrop(self.img_size, pad_if_needed=True, fill=fill)
        return Together([_Scaled(self.min_scale, self.max_scale), crop, v2.RandomHorizontalFlip()], self.jitter), Together()


class _Scaled:
    """Image and masks larger or smaller by one factor, drawn evenly."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def __call__(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        from torchvision.transforms.v2 import functional

        factor = self._low + (self._high - self._low) * torch.rand(()).item()
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        return functional.resize(image, size, antialias=True), {name: functional.resize(value, size) for name, value in target.items()}


class _Files:
    def __init__(self, pairs: Sequence[Pair], labels: Labels, transform: Together, *, augments: bool) -> None:
        self.augments = augments
        self.pairs, self._labels, self._transform = list(pairs), labels, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, mask = _read(self.pairs[index], self._labels)
        image, target = self._transform(picture, {"masks": torch.from_numpy(mask)})
        return image, target["masks"].long()


def _read(pair: Pair, labels: Labels) -> tuple[Any, Mask]:
    """A PIL image and its mask, which must be of its size."""
    from PIL import Image

    file, mask_file = pair
    try:
        with Image.open(file) as image:
            picture = _rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {file}: {error}; take it out, or load with check=True to leave such images out") from error
    mask = read_mask(mask_file, labels)
    if mask.shape != (picture.height, picture.width):
        raise InputError(f"{mask_file} is {mask.shape[1]}×{mask.shape[0]}, but {file} is {picture.width}×{picture.height}")
    return picture, mask


def _readable(pairs: Sequence[Pair], labels: Labels, notes: list[str]) -> list[Pair]:
    """Those whose image decodes. A mask that means nothing is an error: leaving it out would hide that the classes are wrong."""
    with ThreadPoolExecutor() as pool:
        problems = dict(zip(pairs, pool.map(lambda pair: _problem(pair, labels), pairs), strict=True))
    broken = {pair: problem for pair, problem in problems.items() if problem}
    if broken:
        notes.append(f"{len(broken)} unreadable pairs were left out: " + "; ".join(broken.values()))
    return [pair for pair in pairs if pair not in broken]


def _problem(pair: Pair, labels: Labels) -> str:
    try:
        _read(pair, labels)
    except InputError as error:
        if "cannot read" not in str(error):
            raise
        return str(error).partition(";")[0]
    return ""


def need_folder(path: Path, expected: str) -> Path:
    """The folder, if it is one.

    Raises:
        ValueError: it is not there; the message says what a set must hold.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; expected {expected}")
    return path
