"""Any folder of images and masks: ``DIR/images/NAME.jpg`` with ``DIR/masks/NAME.png``, or the same under ``DIR/train``, ``DIR/val`` and ``DIR/test``."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ..._errors import InputError
from ..._ranges import Range
from .._bundle import register_data, seed_of
from ..folder import EXTENSIONS
from . import _miniature
from ._bundle import IGNORE
from ._files import MaskPairs, Pair, need_folder
from ._labels import Labels

__all__ = ["MaskFolder"]


@register_data
@dataclass(frozen=True, kw_only=True)
class MaskFolder(MaskPairs):
    """Your own images and masks, matched by the name before the ending. Masks are grey or palette images of class numbers, 8 or 16 bits.

    Raises:
        ValueError: fewer than two classes; an image without a mask; see :class:`MaskPairs` for the rest.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"val_fraction": Range(above=0, below=1), "ignore": Range(at_least=0)}

    classes: tuple[str, ...] = ()
    """Names in the order of their numbers, from 0."""
    ignore: tuple[int, ...] = (IGNORE,)
    """Values of pixels that nobody knows."""
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
        return Labels(self.classes, codes=dict.fromkeys(self.ignore, IGNORE), unscored=self.unscored)

    def pairs(self) -> dict[str, list[Pair]]:
        root = need_folder(Path(self.root), "a folder with images/ and masks/, or with train/images, train/masks, val/images, val/masks")
        if (root / "train").is_dir():
            if not (root / "val").is_dir():
                raise InputError(f"{root} has train/ but no val/; add {root / 'val'}, or put images/ and masks/ directly under {root} to have them split")
            return {name: _matched(root / name) for name in ("train", "val", "test") if (root / name).is_dir()}
        if not 0 < self.val_fraction < 1:
            raise InputError(f"val_fraction must lie between 0 and 1, got {self.val_fraction}")
        found = _matched(root)
        if len(found) < 2:
            raise InputError(f"{root} has {len(found)} image with a mask; at least 2 are needed to split off a validation part")
        order = random.Random(seed_of(self.seed, "masks")).sample(found, len(found))
        cut = min(max(1, round(self.val_fraction * len(found))), len(found) - 1)
        return {"train": sorted(order[cut:]), "val": sorted(order[:cut])}

    def stand_in(self) -> "MaskFolder":
        """A folder with pieces of the image of nuclei: background is the first class, nuclei are the second."""
        named = self if len(self.classes) >= 2 else replace(self, classes=("background", "nucleus"), unscored=())
        return replace(named, root=_miniature.mask_folder(), img_size=32, ignore=(IGNORE,))


def _matched(folder: Path) -> list[Pair]:
    images = need_folder(folder / "images", f"{folder}/images/NAME.jpg and {folder}/masks/NAME.png")
    masks = need_folder(folder / "masks", f"{folder}/images/NAME.jpg and {folder}/masks/NAME.png")
    by_name = {file.relative_to(masks).with_suffix(""): file for file in sorted(masks.rglob("*")) if file.suffix.lower() in EXTENSIONS}
    pairs = []
    for file in sorted(images.rglob("*")):
        if file.suffix.lower() in EXTENSIONS:
            name = file.relative_to(images).with_suffix("")
            if name not in by_name:
                raise InputError(f"{file} has no mask; expected {masks / name}.png")
            pairs.append((file, by_name[name]))
    return pairs
