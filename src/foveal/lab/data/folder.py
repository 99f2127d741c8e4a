"""Any folder of images: ``DIR/train/CLASS/*.jpg`` and ``DIR/val/CLASS/*.jpg`` (``DIR/test`` if there is one), or ``DIR/CLASS/*.jpg`` to be split.

Splits are known by their usual names in any case, such as ``Training`` or ``valid``. Where there is a test and no validation, the latter is split off the
training images; a test is never trained on. Images that cannot be decoded are left out and named, before training starts.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..._errors import InputError, missing_extra
from ..._ranges import Range
from ._bundle import Data, DataBundle, register_data, seed_of
from ._foreign import few
from ._image import EXTENSIONS, Unreadable, open_rgb, rgb
from ._miniature import image_folder
from ._splits import Layout, class_files, splits_in
from ._walk import Found, Passed, check_kept, folders_in, joined, keep_apart

__all__ = ["ImageFolder"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@register_data
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Data):
    """An image folder with torchvision augmentation.

    Raises:
        ValueError: the path is missing, is a file, or holds no classes; a split is missing; a class is empty or has no readable image; a name may be a split
            or a class; most of a class is in a form that is not read.
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
            prepare=lambda image: evaluate(rgb(image)),
            notes=notes,
        )

    def smoke_data(self) -> "ImageFolder":
        """A folder of handwritten digits."""
        return replace(self, root=image_folder(), img_size=32)

    def _find(self) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
        root = Path(self.root)
        if not root.exists():
            raise InputError(f"{root} does not exist; expected a folder with train/CLASS/* and val/CLASS/*, or CLASS/*")
        if not root.is_dir():
            raise InputError(f"{root} is a file; expected a folder with train/CLASS/* and val/CLASS/*, or CLASS/*")
        passed, notes = Passed(), list[str]()
        layout = splits_in(root, passed, "class folders")
        if layout.splits:
            if layout.others:
                passed.remarks.append(f"{root} has folders beside its splits, which are not read: {', '.join(path.name for path in layout.others)}")
            found = {name: _classes(folder, passed) for name, folder in layout.splits.items()}
            keep_apart({layout.named(name): joined(members.values()) for name, members in found.items()})
            splits = {name: self._readable({label: one.files for label, one in members.items()}, notes) for name, members in found.items()}
        else:
            splits = {"train": self._readable({label: one.files for label, one in _classes(root, passed, whole=True).items()}, notes)}
        if "val" not in splits:
            self._split_off(splits, layout, notes)
        return {name: splits[name] for name in ("train", "val", "test") if name in splits}, passed.notes() + notes

    def _split_off(self, splits: dict[str, dict[str, list[Path]]], layout: Layout, notes: list[str]) -> None:
        """A validation part out of the training images of every class."""
        if not 0 < self.val_fraction < 1:
            raise InputError(f"val_fraction must lie between 0 and 1, got {self.val_fraction}")
        folder = layout.splits.get("train", Path(self.root))
        every, splits["train"], splits["val"] = splits["train"], {}, {}
        for label, files in every.items():
            if len(files) < 2:
                said = "".join(f"; {note}" for note in notes)
                raise InputError(f"{folder / label} has {len(files)} readable image; at least 2 are needed to split off a validation part{said}")
            order = random.Random(seed_of(self.seed, label)).sample(files, len(files))
            cut = min(max(1, round(self.val_fraction * len(files))), len(files) - 1)
            splits["val"][label], splits["train"][label] = sorted(order[:cut]), sorted(order[cut:])
        if "test" in splits:
            taken = sum(map(len, splits["val"].values()))
            notes.append(f"there is no validation split: {taken} images of {layout.named('train')} validate, {layout.named('test')} is for the end alone")

    def _readable(self, classes: dict[str, list[Path]], notes: list[str]) -> dict[str, list[Path]]:
        if not self.check:
            return classes
        every = [file for files in classes.values() for file in files]
        problems = unreadable(every, notes)
        kept = {label: [file for file in files if file not in problems] for label, files in classes.items()}
        for label, files in kept.items():
            if not files:
                example = classes[label][0]
                raise InputError(f"none of the {len(classes[label])} images of class {label!r} can be read, for example {example} ({problems[example]})")
            broken = [f"{file} ({problems[file]})" for file in classes[label] if file in problems]
            check_kept(len(files), broken, f"class {label!r}, {classes[label][0].parent}")
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
        file, label = self.files[index]
        return self._transform(open_rgb(file, hint="take it out of the folder, or load with check=True to leave such images out")), label


def unreadable(files: Sequence[Path], notes: list[str]) -> dict[Path, str]:
    """Images that cannot be read and why, which a note names."""
    with ThreadPoolExecutor() as pool:
        problems = {file: problem for file, problem in zip(files, pool.map(_problem, files), strict=True) if problem}
    if problems:
        notes.append(f"{len(problems)} unreadable images were left out: {few([f'{file} ({problem})' for file, problem in problems.items()])}")
    return problems


def _problem(file: Path) -> str:
    try:
        open_rgb(file)
    except Unreadable as error:
        return error.reason
    return ""


def _classes(folder: Path, passed: Passed, *, whole: bool = False) -> dict[str, Found]:
    own = Passed()
    children = folders_in(folder, own, EXTENSIONS)
    if not children:
        raise InputError(f"{folder} has no class folders; expected {folder}/CLASS/*.jpg")
    out = class_files(folder, children, EXTENSIONS, own, whole=whole)
    empty = [name for name, found in out.items() if not found.files]
    if empty:
        said = f". {own.said()}" if own.counts else ""
        raise InputError(
            f"{folder}: no images for {', '.join(empty)}; expected files ending in {', '.join(sorted(EXTENSIONS))}, or remove the empty folders{said}"
        )
    if len(out) < 2:
        raise InputError(f"{folder} has the one class {children[0].name!r}; at least 2 are needed")
    own.check(sum(len(found.files) for found in out.values()), str(folder))
    passed.merge(own)
    return out
