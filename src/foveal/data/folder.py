"""Any folder of images: ``DIR/train/CLASS/*.jpg`` and ``DIR/val/CLASS/*.jpg`` (``DIR/test`` if there is one), or ``DIR/CLASS/*.jpg`` to be split.

Images that cannot be decoded are left out and named, before training starts.
"""

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._errors import InputError, missing_extra
from .._ranges import Range
from ._bundle import Data, DataBundle, register_data, seed_of
from ._miniature import image_folder

__all__ = ["ImageFolder"]

EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@register_data
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Data):
    """An image folder with torchvision augmentation.

    Raises:
        ValueError: the path is missing, is a file, or holds no classes; a split is missing; a class is empty or has no readable image.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"val_fraction": Range(above=0, below=1)}

    root: Path
    """Folder with train/CLASS and val/CLASS, or with CLASS to be split."""
    img_size: int = 64
    """Side that images are brought to, in pixels."""
    val_fraction: float = 0.2
    """Taken from every class where the folder has no ``val``."""
    randaugment: bool = False
    """Augment training images with torchvision's RandAugment."""
    min_scale: float = 0.35
    """Smallest share of the image that a training crop shows."""
    check: bool = True
    """Decode every image once at the start, to leave out the broken ones. Without it a broken image stops the run with its name."""
    seed: int = 0
    """Decides which images validate, where the folder has no val."""

    def __post_init__(self) -> None:
        if self.img_size < 1 or not 0 < self.min_scale <= 1:
            raise InputError(f"expected img_size of at least 1 and 0 < min_scale ≤ 1, got img_size={self.img_size} and min_scale={self.min_scale}")

    def load(self) -> DataBundle:
        splits, notes = self._find()
        classes = sorted(splits["train"])
        for name, members in splits.items():
            strangers = sorted(set(members) ^ set(classes))
            if strangers:
                raise InputError(f"{self.root}: {name} and train must have the same classes, but {', '.join(strangers[:5])} lie in one of them only")
        train, evaluate = self._transforms()
        built = {name: _Files(splits[name], classes, train if name == "train" else evaluate, augments=name == "train") for name in splits}
        if "test" not in built:
            notes.append("there is no test split: the final numbers are those of val")
        return DataBundle(
            train=built["train"],
            val=built["val"],
            test=built.get("test", built["val"]),
            classes=classes,
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(_rgb(image)),
            notes=notes,
        )

    def stand_in(self) -> "ImageFolder":
        """A folder of handwritten digits."""
        return replace(self, root=image_folder(), img_size=32)

    def _find(self) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
        root = Path(self.root)
        if not root.exists():
            raise InputError(f"{root} does not exist; expected a folder with train/CLASS/* and val/CLASS/*, or CLASS/*")
        if not root.is_dir():
            raise InputError(f"{root} is a file; expected a folder with train/CLASS/* and val/CLASS/*, or CLASS/*")
        notes: list[str] = []
        if (root / "train").is_dir():
            if not (root / "val").is_dir():
                raise InputError(f"{root} has train/ but no val/; add {root / 'val'}, or put the class folders directly under {root} to have them split")
            named = [name for name in ("train", "val", "test") if (root / name).is_dir()]
            splits = {name: self._readable(_classes(root / name), notes) for name in named}
        elif (root / "val").is_dir():
            raise InputError(f"{root} has val/ but no train/; add {root / 'train'}, or put the class folders directly under {root} to have them split")
        else:
            if not 0 < self.val_fraction < 1:
                raise InputError(f"val_fraction must lie between 0 and 1, got {self.val_fraction}")
            splits = {"train": {}, "val": {}}
            for label, files in self._readable(_classes(root), notes).items():
                if len(files) < 2:
                    raise InputError(f"{root / label} has {len(files)} readable image; at least 2 are needed to split off a validation part")
                order = random.Random(seed_of(self.seed, label)).sample(files, len(files))
                cut = min(max(1, round(self.val_fraction * len(files))), len(files) - 1)
                splits["val"][label], splits["train"][label] = sorted(order[:cut]), sorted(order[cut:])
        return splits, notes

    def _readable(self, classes: dict[str, list[Path]], notes: list[str]) -> dict[str, list[Path]]:
        if not self.check:
            return classes
        every = [file for files in classes.values() for file in files]
        with ThreadPoolExecutor() as pool:
            problems = {file: problem for file, problem in zip(every, pool.map(_problem, every), strict=True) if problem}
        if problems:
            named = "; ".join(f"{file} ({problem})" for file, problem in problems.items())
            notes.append(f"{len(problems)} unreadable images were left out: {named}")
        kept = {label: [file for file in files if file not in problems] for label, files in classes.items()}
        for label, files in kept.items():
            if not files:
                raise InputError(f"none of the {len(classes[label])} images of class {label!r} can be read, for example {classes[label][0]}")
        return kept

    def _transforms(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        try:
            from torchvision.transforms import v2
        except ImportError as error:
            raise missing_extra("torchvision", "train", "an image folder") from error
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
        crop = [v2.RandomResizedCrop(self.img_size, scale=(self.min_scale, 1.0), antialias=True), v2.RandomHorizontalFlip()]
        train = v2.Compose([*crop, *([v2.RandAugment()] if self.randaugment else []), *finish])
        evaluate = v2.Compose([v2.Resize(round(self.img_size * 1.14), antialias=True), v2.CenterCrop(self.img_size), *finish])
        return train, evaluate


class _Files:
    def __init__(self, classes: dict[str, list[Path]], names: list[str], transform: Callable[..., Tensor], *, augments: bool) -> None:
        self.augments = augments
        self.files = [(file, label) for label, name in enumerate(names) for file in classes[name]]
        self._transform = transform

    @property
    def names(self) -> list[str]:
        """``CLASS/FILE``, the same on another machine."""
        return [str(Path(file.parent.name, file.name)) for file, _ in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        file, label = self.files[index]
        try:
            with Image.open(file) as image:
                picture = _rgb(image)
        except (OSError, SyntaxError) as error:
            raise InputError(f"cannot read {file}: {error}; take it out of the folder, or load with check=True to leave such images out") from error
        return self._transform(picture), label


def _classes(folder: Path) -> dict[str, list[Path]]:
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not names:
        raise InputError(f"{folder} has no class folders; expected {folder}/CLASS/*.jpg")
    out = {name: sorted(file for file in (folder / name).rglob("*") if file.suffix.lower() in EXTENSIONS) for name in names}
    empty = [name for name, files in out.items() if not files]
    if empty:
        raise InputError(f"{folder}: no images for {', '.join(empty)}; expected files ending in {', '.join(sorted(EXTENSIONS))}, or remove the empty folders")
    if len(names) < 2:
        raise InputError(f"{folder} has the one class {names[0]!r}; at least 2 are needed")
    return out


def _rgb(image: Any, *, upright: bool = True) -> Any:
    """Upright as the camera was held, or as it is stored. Pillow's conversion to RGB cuts 16-bit grey off at 255, and warns of palettes with transparency."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image) if upright else image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _problem(file: Path) -> str:
    from PIL import Image

    try:
        with Image.open(file) as image:
            _rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return ""
