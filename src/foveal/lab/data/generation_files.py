"""Images to be drawn out of your own files: any folder, CIFAR-10 as its authors give it, Tiny-ImageNet."""

import random
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..._errors import InputError
from ..._ranges import Range
from ._bundle import Data, DataBundle, register_data, seed_of
from ._cifar import Planes, read_cifar10
from ._foreign import few, lines_of, read_text
from ._image import EXTENSIONS, PictureError, open_rgb
from ._walk import Passed, check_kept, files_below, is_hidden
from .folder import ImageFolder, unreadable
from .generation import DigitImages, ImageBundle, _prepare, _signed

__all__ = ["CIFAR10Files", "FolderImages", "TinyImageNet"]

_HINT = "take it out of the folder, or load with check=True to leave such images out"
_FOLDER = "cifar-10-batches-py"


class _Flipping:
    """Mirrors half of its images, in training."""

    augments: bool

    def plain(self) -> Self:
        """The same without mirroring."""
        other = copy(self)
        other.augments = False
        return other

    def _flip(self, image: Tensor) -> Tensor:
        return image.flip(-1) if self.augments and bool(torch.rand(()) < 0.5) else image


class _Files(_Flipping):
    """Image files, brought to a side: the shorter side is resized to it and the middle is cut out."""

    def __init__(self, files: Sequence[tuple[Path, int]], side: int, *, flip: bool) -> None:
        self.files, self._side = list(files), side
        self.augments = flip

    @property
    def names(self) -> list[str]:
        return [str(Path(file.parent.name, file.name)) for file, _ in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from torchvision.transforms.v2 import functional as transforms

        file, label = self.files[index]
        image = open_rgb(file, hint=_HINT)
        if min(image.size) < 2:
            raise PictureError.of(file, f"it is {image.size[0]}×{image.size[1]} pixels, which is no picture to learn from", _HINT)
        small = transforms.center_crop(transforms.resize(image, [self._side], antialias=True), [self._side])
        return self._flip(_signed(transforms.pil_to_tensor(small))), label


@register_data
@dataclass(frozen=True, kw_only=True)
class FolderImages(Data):
    """A folder of images to be drawn, with classes as :class:`ImageFolder` finds them, or without.

    Raises:
        ValueError: the path is missing or is a file; there are no classes, where there should be; nothing can be read.
    """

    targets: ClassVar[str] = "images"
    ranges: ClassVar[Mapping[str, Range]] = {"val_fraction": Range(above=0, below=1)}

    root: Path
    """Folder with train/CLASS and val/CLASS, or with CLASS to be split; without classes any folder of images."""
    img_size: int = 32
    """Side that images are brought to, in pixels: the shorter side is resized and the middle cut out."""
    classes: bool = True
    """Draw by class. Without, every image below the folder counts, whatever folder it lies in."""
    flip: bool = True
    """Mirror half of the training images."""
    val_fraction: float = 0.2
    """Taken for validation where the folder has no ``val``."""
    check: bool = True
    """Decode every image once at the start, to leave out the broken ones. Without it a broken image stops the run with its name."""
    seed: int = 0
    """Decides which images validate, where the folder has no val."""

    def load(self) -> DataBundle:
        root = Path(self.root)
        if not root.is_dir():
            raise InputError(f"{root} {'is a file' if root.exists() else 'does not exist'}; expected a folder of images")
        found, names, notes = self._by_class(root) if self.classes else self._without_classes(root)
        if self.check:
            self._leave_out_(found, names, notes)
        if "test" not in found:
            notes.append("there is no test split: the final numbers are those of val")
        splits = {name: _Files(files, self.img_size, flip=self.flip and name == "train") for name, files in found.items()}
        size = (self.img_size, self.img_size)
        val = splits["val"]
        return ImageBundle(
            splits["train"], val, splits.get("test", val), names, img_size=self.img_size, in_chans=3, prepare=_prepare(size, "RGB"), notes=notes, size=size
        )

    def smoke_data(self) -> Data:
        """A few handwritten digits."""
        return DigitImages().smoke_data()

    def _by_class(self, root: Path) -> tuple[dict[str, list[tuple[Path, int]]], list[str], list[str]]:
        if sum(entry.is_dir() and not is_hidden(entry.name) for entry in root.iterdir()) < 2:
            raise InputError(
                f"{root} has no two class folders; expected {root}/CLASS/*.jpg, or give --data.classes False to draw without classes "
                "what lies there in any folder"
            )
        found, notes = ImageFolder(root=self.root, val_fraction=self.val_fraction, check=self.check, seed=self.seed)._find()
        names = sorted(found["train"])
        for split, members in found.items():
            strangers = sorted(set(members) ^ set(names))
            if strangers:
                raise InputError(f"{self.root}: {split} and train must have the same classes, but {few(strangers)} lie in one of them only")
        return {split: [(file, names.index(name)) for name in names for file in members[name]] for split, members in found.items()}, names, notes

    def _without_classes(self, root: Path) -> tuple[dict[str, list[tuple[Path, int]]], list[str], list[str]]:
        passed = Passed()
        files = files_below(root, EXTENSIONS, passed).files
        passed.check(len(files), str(root))
        if len(files) < 2:
            raise InputError(
                f"{root} has {len(files)} images; at least 2 are needed, one of them to validate; files must end in {', '.join(sorted(EXTENSIONS))}"
            )
        order = random.Random(seed_of(self.seed, "without classes")).sample(files, len(files))
        cut = min(max(1, round(self.val_fraction * len(files))), len(files) - 1)
        return {"train": [(file, 0) for file in sorted(order[cut:])], "val": [(file, 0) for file in sorted(order[:cut])]}, [], passed.notes()

    def _leave_out_(self, found: dict[str, list[tuple[Path, int]]], names: list[str], notes: list[str]) -> None:
        if not self.classes:
            every = [file for files in found.values() for file, _ in files]
            problems = unreadable(every, notes)
            check_kept(len(every) - len(problems), [f"{file} ({problem})" for file, problem in problems.items()], self.root)
            for name, files in found.items():
                found[name] = [(file, label) for file, label in files if file not in problems]
        leave_out_tiny_(found, names, notes, self.root)


def leave_out_tiny_(found: dict[str, list[tuple[Path, int]]], names: Sequence[str], notes: list[str], root: Path) -> None:
    """Take images of a single pixel in height or width out of splits of readable ones, and say so in a note.

    Raises:
        ValueError: most of a class would be left out, or all of what trains of it; nothing is left of a split.
    """
    tiny = {file for files in found.values() for file, _ in files if _side(file) < 2}
    if tiny:
        notes.append(f"{len(tiny)} images of a single pixel in height or width were left out: {few(sorted(map(str, tiny)))}")
    for label in sorted({label for files in found.values() for file, label in files if file in tiny}):
        own = [file for files in found.values() for file, other in files if other == label]
        gone = sorted(file for file in own if file in tiny)
        what = f"class {names[label]!r}" if names else "it"
        if 2 * len(gone) > len(own) or all(file in tiny for file, other in found["train"] if other == label):
            raise InputError(
                f"{root}: most of {what} would be left out, {len(gone)} of {len(own)} images are of a single pixel in height or width, "
                f"such as {gone[0]}; take them out"
            )
    for name, files in found.items():
        found[name] = [(file, label) for file, label in files if file not in tiny]
        if not found[name]:
            raise InputError(f"{root}: no image of {name} can be used{f', for example {files[0][0]}' if files else ''}")


def _side(file: Path) -> int:
    """The shorter side of a readable image, in pixels."""
    from PIL import Image

    with Image.open(file) as image:
        return min(image.size)


class _Planes(_Flipping):
    def __init__(self, planes: Planes, *, flip: bool) -> None:
        self._images, self._labels = torch.from_numpy(planes.images), planes.labels
        self.augments = flip

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._flip(_signed(self._images[index])), int(self._labels[index])


@register_data
@dataclass(frozen=True, kw_only=True)
class CIFAR10Files(Data):
    """CIFAR-10 as its authors give it: ``cifar-10-batches-py`` (pickles, of which nothing but arrays, numbers and text is read) or ``cifar-10-batches-bin``.

    Training sees all five batches, as in the published runs, so there is no validation beside the test.

    Raises:
        ValueError: files that are missing, damaged, or hold something else.
    """

    targets: ClassVar[str] = "images"

    root: Path
    """The folder with ``data_batch_1`` to ``data_batch_5`` and ``test_batch``, or the one above it."""
    flip: bool = True
    """Mirror half of the training images."""

    def load(self) -> DataBundle:
        train, test, names = read_cifar10(Path(self.root))
        notes = [f"all {len(train.labels):,} images of the training batches train, so validation is the test"]
        held = _Planes(test, flip=False)
        size = (32, 32)
        return ImageBundle(_Planes(train, flip=self.flip), held, held, names, img_size=32, in_chans=3, prepare=_prepare(size, "RGB"), notes=notes, size=size)

    def smoke_data(self) -> Data:
        """A few handwritten digits."""
        return DigitImages().smoke_data()


@register_data
@dataclass(frozen=True, kw_only=True)
class TinyImageNet(Data):
    """Tiny-ImageNet, 200 classes at 64 pixels: ``train/WNID/images/*.JPEG``, ``val/images``, ``val/val_annotations.txt``; ``wnids.txt`` numbers the classes.

    Its test has no labels, so the final numbers are those of the validation, as in the published runs.

    Raises:
        ValueError: a list or a file that is missing or does not fit.
    """

    targets: ClassVar[str] = "images"

    root: Path
    """The folder ``tiny-imagenet-200``."""
    flip: bool = True
    """Mirror half of the training images."""
    check: bool = True
    """Decode every image once at the start, to leave out the broken ones."""

    def load(self) -> DataBundle:
        root = Path(self.root)
        names = [line.strip() for line in lines_of(_text(root / "wnids.txt", "one class a line, in the order of their numbers")) if line.strip()]
        if len(set(names)) < max(len(names), 2):
            raise InputError(f"{root / 'wnids.txt'} must name at least 2 different classes, one a line, got {names[:3]}")
        train = [(file, number) for number, name in enumerate(names) for file in self._of(root / "train" / name / "images")]
        val, notes = self._validation(root, names), list[str]()
        if self.check:
            problems = unreadable([file for file, _ in [*train, *val]], notes)
            found = {name: [(file, label) for file, label in files if file not in problems] for name, files in {"train": train, "validation": val}.items()}
            leave_out_tiny_(found, names, notes, root)
            train, val = found["train"], found["validation"]
        held = _Files(val, 64, flip=False)
        size = (64, 64)
        return ImageBundle(_Files(train, 64, flip=self.flip), held, held, names, img_size=64, in_chans=3, prepare=_prepare(size, "RGB"), notes=notes, size=size)

    def smoke_data(self) -> Data:
        """A few handwritten digits."""
        return DigitImages().smoke_data()

    def _of(self, folder: Path) -> list[Path]:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS) if folder.is_dir() else []
        if not found:
            raise InputError(f"{folder} has no images; expected train/WNID/images/*.JPEG for each class of wnids.txt")
        return found

    def _validation(self, root: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
        path = root / "val" / "val_annotations.txt"
        numbers: dict[str, Any] = {name: number for number, name in enumerate(names)}
        found = []
        for place, line in enumerate(lines_of(_text(path, "a line for each image: file, class and box, with tabs between")), 1):
            if not line.strip():
                continue
            parts = line.split("\t")
            if len(parts) < 2 or parts[1] not in numbers:
                raise InputError(f"{path}, line {place}: expected a file, a class of wnids.txt and a box with tabs between, got {line[:80]!r}")
            file = root / "val" / "images" / parts[0]
            if not file.is_file():
                raise InputError(f"{path}, line {place}: {file} is not there")
            found.append((file, numbers[parts[1]]))
        if not found:
            raise InputError(f"{path} names no image")
        return found


def _text(path: Path, what: str) -> str:
    if not path.is_file():
        raise InputError(f"{path} is missing; expected {what}")
    return read_text(path)
