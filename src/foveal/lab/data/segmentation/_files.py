"""Sets that are pairs of files, an image and a mask, with the joint augmentation of segmentation."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...._errors import InputError
from .._bundle import Data
from .._foreign import few
from .._image import Opened, Unreadable, open_picture, rgb
from .._together import Together, vision
from .._walk import Passed, check_kept
from ..folder import _MEAN
from ._bundle import IGNORE, SegmentationBundle
from ._labels import Labels, Mask, decode_mask, open_mask
from ._look import Seen, check_seen, two_classes

__all__ = ["MaskPairs", "Pair", "need_folder"]

Pair = tuple[Path, Path]


@dataclass(frozen=True, kw_only=True)
class MaskPairs(Data):
    """What sets of image and mask files share. Training sees scaled, mirrored crops; evaluation the images in their own size.

    Raises:
        ValueError: files or folders are missing; an image and its mask differ in size, or a camera's orientation leaves open how they lie on each other; a mask
            holds what means nothing; training shows fewer than two classes, or a split no known pixel.
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
    """Decode every pair once at the start, to leave out the broken ones and to count the pixels of every class. Without it a broken file stops the run with its
    name."""
    drawn_on: Literal["unsaid", "stored", "shown"] = "unsaid"
    """Whether masks lie on images as they are stored, or as a camera's EXIF says they are shown. Images are seen as shown, and masks turned with them; where
    only the image has such a note, and sizes leave open which it is, ``unsaid`` is an error."""

    def __post_init__(self) -> None:
        if self.img_size < 1 or not 0 < self.min_scale <= self.max_scale or not 0 <= self.jitter < 1:
            raise InputError(f"expected img_size of at least 1, 0 < min_scale ≤ max_scale and 0 ≤ jitter < 1, got {self}")

    @abstractmethod
    def labels(self) -> Labels:
        """Classes, and what the masks' values mean."""

    @abstractmethod
    def pairs(self, passed: Passed) -> dict[str, list[Pair]]:
        """Files of ``train``, ``val`` and, where there is one, ``test``; what is passed over is told."""

    def load(self) -> SegmentationBundle:
        labels = self.labels()
        passed = Passed()
        pairs = self.pairs(passed)
        notes = passed.notes()
        for name, part in pairs.items():
            if not part:
                raise InputError(f"{self.root}: there is no image with a mask in {name}")
        both = sorted({str(image) for image, _ in pairs["train"]} & {str(image) for image, _ in pairs["val"]})
        if both:
            notes.append(f"{len(both)} images are in train and in val, so that numbers flatter: {few(both, 5)}")
        if self.check:
            pairs = self._checked(pairs, labels, notes)
        else:
            two_classes((_read(pair, labels, self.drawn_on)[1] for pair in pairs["train"]), labels, self.root)
        train, evaluate = self._transforms()
        built = {name: _Files(part, labels, self.drawn_on, train if name == "train" else evaluate, augments=name == "train") for name, part in pairs.items()}
        if "test" not in built:
            notes.append("there is no test split with masks: the final numbers are those of val")
        return SegmentationBundle(
            train=built["train"],
            val=built["val"],
            test=built.get("test", built["val"]),
            classes=list(labels.classes),
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(rgb(image))[0],
            notes=notes,
            palette=labels.palette,
            unscored=labels.unscored,
        )

    def _checked(self, pairs: dict[str, list[Pair]], labels: Labels, notes: list[str]) -> dict[str, list[Pair]]:
        """Pairs that decode. A mask that means nothing is an error: leaving it out would hide that the classes are wrong."""
        kept, seen = {}, {}
        for name, part in pairs.items():
            with ThreadPoolExecutor() as pool:
                looked = list(pool.map(lambda pair: _look(pair, labels, self.drawn_on), part))
            broken = [problem for problem in looked if isinstance(problem, str)]
            if broken:
                notes.append(f"{len(broken)} unreadable pairs were left out: {few(broken)}")
            kept[name] = [pair for pair, one in zip(part, looked, strict=True) if isinstance(one, Seen)]
            if not kept[name]:
                raise InputError(f"{self.root}: there is no image with a mask in {name} that can be read: {few(broken)}")
            check_kept(len(kept[name]), broken, f"{self.root}, {name}")
            seen[name] = Seen.total(one for one in looked if isinstance(one, Seen))
        notes += check_seen(seen, labels, self.root)
        return kept

    def _transforms(self) -> tuple[Together, Together]:
        v2, tv_tensors = vision("segmentation of image files")
        # padding has the color of the mean, which is 0 behind the standardization
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
    def __init__(self, pairs: Sequence[Pair], labels: Labels, drawn_on: str, transform: Together, *, augments: bool) -> None:
        self.augments = augments
        self.pairs, self._labels, self._drawn_on, self._transform = list(pairs), labels, drawn_on, transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, mask = _read(self.pairs[index], self._labels, self._drawn_on)
        image, target = self._transform(picture, {"masks": torch.from_numpy(mask)})
        return image, target["masks"].long()


def _read(pair: Pair, labels: Labels, drawn_on: str) -> tuple[Any, Mask]:
    """A PIL image and its mask, which must be of its size, both upright."""
    file, mask_file = pair
    image = open_picture(file, hint="take it out, or load with check=True to leave such images out")
    mask = open_mask(mask_file)
    image, mask = _upright(image, mask, drawn_on)
    return image.rgb(), decode_mask(mask, labels, mask_file)


def _upright(image: Opened, mask: Opened, drawn_on: str) -> tuple[Opened, Opened]:
    """Both turned by what the camera says, one rule for both.

    Raises:
        ValueError: they differ in size; nobody can tell whether the mask has to be turned.
    """
    own, theirs = image.orientation, mask.orientation
    # turned with the image, or by what its own file says
    choices = {"stored": mask.turned(own), "shown": mask.turned(theirs)}
    image = image.turned(own)
    fits = [name for name, turned in choices.items() if turned.image.size == image.image.size]
    if drawn_on != "unsaid":
        fits = [name for name in fits if name == drawn_on]
    if not fits:
        wide, high = choices[drawn_on if drawn_on != "unsaid" else "shown"].image.size
        raise InputError(f"{mask.name} is {wide}×{high}, but {image.name} is {image.image.width}×{image.image.height}")
    if len(fits) > 1 and own != theirs:
        raise InputError(
            f"{image.name} has the orientation {own} in its EXIF and {mask.name} has {theirs}, and both sizes fit: nobody can tell whether the mask was "
            "drawn on the image as it is stored or as it is shown. Say --data.drawn-on stored or shown, or save both upright and without EXIF"
        )
    return image, choices[fits[0]]


def _look(pair: Pair, labels: Labels, drawn_on: str) -> "Seen | str":
    """What the mask of a pair holds, or why one of them cannot be read."""
    try:
        return Seen.of(_read(pair, labels, drawn_on)[1])
    except Unreadable as error:
        return str(error).partition("; ")[0]


def need_folder(path: Path, expected: str) -> Path:
    """The folder, if it is one.

    Raises:
        ValueError: it is not there; the message says what a set must hold.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder; expected {expected}")
    return path
