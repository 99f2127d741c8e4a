"""Any folder of images and masks: ``DIR/images/NAME.jpg`` with ``DIR/masks/NAME.png``, or the same under ``DIR/train``, ``DIR/val`` and ``DIR/test``.

``DIR/images/train`` with ``DIR/masks/train`` and so on is read as well. Splits are known by their usual names in any case; where there is a test and no
validation, the latter is split off the training images.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ...._errors import InputError
from ...._ranges import Range
from .._bundle import register_data, seed_of
from .._foreign import few
from .._image import EXTENSIONS
from .._splits import Layout, like_splits, split_of, splits_in
from .._walk import Found, Passed, files_below, folders_in, keep_apart
from . import _miniature
from ._bundle import IGNORE
from ._files import MaskPairs, Pair, need_folder
from ._labels import Labels

__all__ = ["MaskFolder"]


@register_data
@dataclass(frozen=True, kw_only=True)
class MaskFolder(MaskPairs):
    """Your own images and masks, matched by the name before the ending. Masks are gray or palette images of class numbers, 1, 8, 16 or 32 bits.

    Raises:
        ValueError: fewer than two classes; an image without a mask, or with two; see :class:`MaskPairs` for the rest.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"val_fraction": Range(above=0, below=1), "ignore": Range(at_least=0)}

    classes: tuple[str, ...] = ()
    """Names in the order of their numbers, from 0."""
    values: tuple[int, ...] = ()
    """What the masks hold for each class, in the same order, such as 0 255; 0, 1, 2 … if empty."""
    ignore: tuple[int, ...] = (IGNORE,)
    """Values of pixels that nobody knows. 255 is one of them unless it is among ``values``."""
    unscored: tuple[str, ...] = ()
    """Names of classes that the mean over classes leaves out."""
    val_fraction: float = 0.2
    """Taken where the folder has no ``val``."""
    seed: int = 0
    """Decides which pairs validate, where the folder has no val."""

    def labels(self) -> Labels:
        if not 2 <= len(self.classes) <= IGNORE:
            raise InputError(f"give classes, the names of 2 to {IGNORE} classes in the order of their numbers, got {self.classes}")
        strangers = set(self.unscored) - set(self.classes)
        if strangers:
            raise InputError(f"unscored names {', '.join(sorted(strangers))}, which is no class; classes: {', '.join(self.classes)}")
        codes = dict.fromkeys(self.ignore, IGNORE)
        if self.values:
            if len(set(self.values)) != len(self.classes) or len(self.values) != len(self.classes):
                raise InputError(f"values must be {len(self.classes)} different numbers, one for each class, got {self.values}")
            # 255 is the default of ignore, and the usual value of the one class of a binary mask
            both = set(self.values) & set(self.ignore) - {IGNORE}
            if both:
                raise InputError(f"{', '.join(map(str, sorted(both)))} is in values and in ignore; expected one of them")
            codes |= {value: number for number, value in enumerate(self.values)}
        hint = "; say with --data.values what the masks hold for each class, and with --data.ignore where nobody knows"
        return Labels(self.classes, codes=codes, unscored=self.unscored, closed=bool(self.values), hint=hint)

    def pairs(self, passed: Passed) -> dict[str, list[Pair]]:
        root = need_folder(Path(self.root), "a folder with images/ and masks/, or with train/images, train/masks, val/images, val/masks")
        layout, places = _places(root, passed)
        found = {name: _matched(images, masks, passed) for name, (images, masks) in places.items()}
        keep_apart({layout.named(name) if name in layout.splits else name: own for name, (_, own) in found.items()})
        parts = {name: pairs for name, (pairs, _) in found.items()}
        if "val" not in parts:
            where = places["train"][0].parent if layout.splits else root
            parts["train"], parts["val"] = self._split_off(parts["train"], where)
            if layout.splits:
                passed.remarks.append(f"there is no validation split: {len(parts['val'])} images of {layout.named('train')} validate")
        return {name: parts[name] for name in ("train", "val", "test") if name in parts}

    def _split_off(self, found: list[Pair], where: Path) -> tuple[list[Pair], list[Pair]]:
        if not 0 < self.val_fraction < 1:
            raise InputError(f"val_fraction must lie between 0 and 1, got {self.val_fraction}")
        if len(found) < 2:
            raise InputError(f"{where} has {len(found)} image with a mask; at least 2 are needed to split off a validation part")
        order = random.Random(seed_of(self.seed, "masks")).sample(found, len(found))
        cut = min(max(1, round(self.val_fraction * len(found))), len(found) - 1)
        return sorted(order[cut:]), sorted(order[:cut])

    def smoke_data(self) -> "MaskFolder":
        """A folder with pieces of the image of nuclei: background is the first class, nuclei are the second."""
        named = self if len(self.classes) >= 2 else replace(self, classes=("background", "nucleus"), unscored=())
        return replace(named, root=_miniature.mask_folder(), img_size=32, ignore=(IGNORE,), values=())


def _places(root: Path, passed: Passed) -> tuple[Layout, dict[str, tuple[Path, Path]]]:
    """Folders of images and of masks by split; ``train`` alone where they are to be split."""
    if not (root / "images").is_dir():
        layout = splits_in(root, passed, "images/ and masks/")
        expected = f"{root}/images/NAME.jpg and {root}/masks/NAME.png"
        if not layout.splits:
            need_folder(root / "images", expected)
        return layout, {name: _both(folder) for name, folder in layout.splits.items()}
    images, masks = _both(root)
    inner = Layout({split: folder for folder in folders_in(images, Passed()) if (split := split_of(folder.name))})
    beside = [folder.name for folder in folders_in(root, Passed()) if split_of(folder.name)]
    if beside:
        raise InputError(f"{root} has images/ and masks/ beside {few(beside)}, which name splits; keep one of the two, or move the other elsewhere")
    if not inner.splits:
        others = [folder.name for folder in folders_in(images, Passed())]
        if like_splits(others):
            raise InputError(f"{images} has {few(others, 5)}, which look like splits; name them train, val and test, here and in {masks}")
        return inner, {"train": (images, masks)}
    inner = splits_in(images, passed, "images")
    return inner, {name: (folder, need_folder(masks / folder.name, f"the masks of {folder}")) for name, folder in inner.splits.items()}


def _both(folder: Path) -> tuple[Path, Path]:
    expected = f"{folder}/images/NAME.jpg and {folder}/masks/NAME.png"
    return need_folder(folder / "images", expected), need_folder(folder / "masks", expected)


def _matched(images: Path, masks: Path, passed: Passed) -> tuple[list[Pair], Found]:
    """Images with their masks, by the path before the ending."""
    of_images, of_masks = Passed(), Passed()
    found = files_below(images, EXTENSIONS, of_images)
    of_images.check(len(found.files), str(images))
    masked = _by_name(files_below(masks, EXTENSIONS, of_masks).files, masks, "masks")
    named = _by_name(found.files, images, "images")
    for name, file in named.items():
        if name not in masked:
            raise InputError(f"{file} has no mask; expected {masks / name}.png")
    for name in masked.keys() - named.keys():
        of_masks.add("masks without an image", masked[name])
    passed.merge(of_images)
    passed.merge(of_masks)
    return [(file, masked[name]) for name, file in named.items()], found


def _by_name(files: Iterable[Path], folder: Path, what: str) -> dict[Path, Path]:
    named: dict[Path, Path] = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("")
        other = named.setdefault(name, file)
        if other != file:
            raise InputError(f"{other} and {file} are two {what} of one name, and which belongs to which is open; rename or remove one")
    return named
