"""ImageNet-9: 42 classes of ImageNet as nine kinds of animals.

Protocol   Bahng et al., "Learning De-biased Representations with Biased Representations" (ReBias), 2020 (arXiv 1910.02806), as Wangt-CN/CaaM
           ``dataset_imagenet.py`` has it: 42 classes, 54,600 training images, 2,100 to validate.
Differs    The authors' "unbiased" accuracy is a mean over cells of class and texture cluster, whose clusters come from a VGG16. It is not here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...._errors import InputError
from .._bundle import Data, DataBundle, Split, register_data
from .._image import EXTENSIONS, rgb
from .._walk import Passed, folders_in
from ..folder import _MEAN, _STD
from ._pictures import Picture, Pictures, checked, pictures_below, readable, transforms_of
from .digits import ContextedDigits

__all__ = ["NINE", "ImageNet9"]

NINE: dict[str, tuple[str, ...]] = {
    "dog": ("n02085620", "n02099601", "n02106550", "n02106662", "n02110958"),
    "cat": ("n02123045", "n02123159", "n02123394", "n02123597", "n02124075"),
    "frog": ("n01641577", "n01644373", "n01644900"),
    "turtle": ("n01664065", "n01665541", "n01667114", "n01667778", "n01669191"),
    "bird": ("n01819313", "n01820546", "n01833805", "n01843383", "n01847000"),
    "monkey": ("n02486410", "n02487347", "n02488291", "n02488702", "n02492035"),
    "fish": ("n02607072", "n02640242", "n02641379", "n02643566", "n02655020"),
    "crab": ("n01978287", "n01978455", "n01980166", "n01981276"),
    "insect": ("n02174001", "n02177972", "n02190166", "n02206856", "n02219486"),
}
"""Kinds, and the classes of ImageNet that they are made of."""


@register_data
@dataclass(frozen=True, kw_only=True)
class ImageNet9(Data):
    """Nine kinds of animals out of ImageNet, ``train/CLASS/*`` and ``val/CLASS/*``.

    The folders of classes have the names of the nine kinds or are ImageNet's own, ``n02085620`` and so on; of ImageNet's thousand the 42 are taken. As in the
    papers the validation split is the test.

    Raises:
        ValueError: a folder is not there, or has no images of one of the kinds.
    """

    root: Path
    """Folder with train and val, or ImageNet's own."""
    imagenet_a: Path | None = None
    """Folder of ImageNet-A, whose matching classes become the probe ``imagenet_a``."""
    img_size: int = 224
    """Side of the images in pixels, after cropping."""
    check: bool = False
    """Decode every image once at the start, to leave out the broken ones."""

    def __post_init__(self) -> None:
        if self.img_size < 8:
            raise InputError(f"expected img_size of at least 8, got {self.img_size}")

    def load(self) -> DataBundle:
        passed = Passed()
        notes = ["validation and test are the same images, as in the papers: do not choose by the one and report the other"]
        train, evaluate = self._transforms()
        splits: dict[str, Split] = {}
        for part in ("train", "val"):
            pictures = _found(Path(self.root) / part, passed)
            if absent := sorted(set(NINE) - {picture.label for picture in pictures}):
                raise InputError(f"{Path(self.root) / part} has no images of {', '.join(absent)}; expected a folder for each kind, or ImageNet's own")
            made = self._split(pictures, train if part == "train" else evaluate, Path(self.root), notes, augments=part == "train")
            if lost := [kind for number, kind in enumerate(NINE) if number not in {label for _, label in made.files}]:
                raise InputError(f"{Path(self.root) / part} has no image of {', '.join(lost)} that can be read; {'; '.join(notes)}")
            splits[part] = made
        probes: dict[str, Split] = {}
        if self.imagenet_a is not None:
            folder = Path(self.imagenet_a)
            probes["imagenet_a"] = checked(self._split(_found(folder, passed), evaluate, folder, notes), f"{folder}, among the classes of ImageNet-9,")
        return DataBundle(
            train=splits["train"],
            val=splits["val"],
            test=splits["val"],
            classes=list(NINE),
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(rgb(image)),
            notes=notes + passed.notes(),
            probes=probes,
        )

    def smoke_data(self) -> Data:
        return ContextedDigits().smoke_data()

    def _split(self, pictures: list[Picture], transform: Any, root: Path, notes: list[str], *, augments: bool = False) -> Pictures:
        return Pictures(readable(pictures, notes) if self.check else pictures, list(NINE), transform, root, augments=augments)

    def _transforms(self) -> tuple[Any, Any]:
        v2, side = transforms_of(), self.img_size
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
        train = v2.Compose([v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip(), *finish])
        return train, v2.Compose([v2.Resize(side * 8 // 7, antialias=True), v2.CenterCrop(side), *finish])


def _found(folder: Path, passed: Passed) -> list[Picture]:
    """Pictures in the folders of the nine kinds or of their classes."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected the folders of classes there")
    kind_of = {name: kind for kind, classes in NINE.items() for name in (kind, *classes)}
    folders = [child for child in folders_in(folder, passed, EXTENSIONS) if child.name in kind_of]
    return [Picture(kind_of[child.name], child.name, path) for child in folders for path in pictures_below(child, passed).files]
