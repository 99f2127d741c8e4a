"""Sets that are pairs of files, an image and a mask, with the joint augmentation of segmentation."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..._errors import InputError, missing_extra
from .._bundle import Data
from ..folder import _MEAN, _STD, _rgb
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
    img_size: int = 512
    """Side of the training crops; smaller images are padded with pixels of no class."""
    min_scale: float = 0.5
    max_scale: float = 2.0
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
            prepare=lambda image: evaluate(_rgb(image), None)[0],
            notes=notes,
            palette=labels.palette,
            unscored=labels.unscored,
        )

    def _transforms(self) -> tuple["_Together", "_Together"]:
        try:
            from torchvision import tv_tensors
            from torchvision.transforms import v2
        except ImportError as error:
            raise missing_extra("torchvision", "train", "segmentation of image files") from error
        # padding has the colour of the mean, which is 0 behind the standardisation
        fill = {tv_tensors.Image: [round(255 * value) for value in _MEAN], tv_tensors.Mask: IGNORE}
        colours = [v2.ColorJitter(brightness=self.jitter, contrast=self.jitter, saturation=self.jitter)] if self.jitter else []
        shape = v2.Compose([v2.RandomCrop(self.img_size, pad_if_needed=True, fill=fill), v2.RandomHorizontalFlip(), *colours])
        finish = v2.Compose([v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.Normalize(_MEAN, _STD)])
        return _Together(finish, shape, (self.min_scale, self.max_scale)), _Together(finish)


class _Together:
    """Transforms of an image and its mask, which can be sent to another process."""

    def __init__(self, finish: Callable[..., Any], shape: Callable[..., Any] | None = None, scales: tuple[float, float] = (1.0, 1.0)) -> None:
        self._finish, self._shape, self._scales = finish, shape, scales

    def __call__(self, image: Any, mask: Mask | None) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional

        pixels = tv_tensors.Image(functional.pil_to_tensor(image))
        labels = tv_tensors.Mask(torch.from_numpy(mask) if mask is not None else torch.zeros(pixels.shape[-2:], dtype=torch.uint8))
        if self._shape is not None:
            pixels, labels = self._shape(*self._scaled(pixels, labels))
        pixels, labels = self._finish(pixels, labels)
        return pixels.as_subclass(Tensor), labels.as_subclass(Tensor).long()

    def _scaled(self, image: Any, mask: Any) -> tuple[Any, Any]:
        from torchvision.transforms import v2

        low, high = self._scales
        factor = low + (high - low) * torch.rand(()).item()
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        return v2.functional.resize(image, size, antialias=True), v2.functional.resize(mask, size, interpolation=v2.InterpolationMode.NEAREST)


class _Files:
    def __init__(self, pairs: Sequence[Pair], labels: Labels, transform: Callable[..., tuple[Tensor, Tensor]], *, augments: bool) -> None:
        self.augments = augments
        self.pairs, self._labels, self._transform = list(pairs), labels, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(*_read(self.pairs[index], self._labels))


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
