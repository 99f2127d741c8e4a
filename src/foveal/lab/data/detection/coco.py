"""Sets in COCO's format: a folder of images, and a JSON file with boxes and masks for each part."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ...._errors import InputError
from .._bundle import Data, register_data
from .._foreign import few, real_place
from .._image import Unreadable, open_picture, rgb
from .._together import Together, vision
from ..segmentation._files import need_folder
from ._annotations import ImageEntry, look_at_masks, read_annotations
from ._bundle import DetectionBundle
from ._masks import decode_mask
from ._miniature import coco

__all__ = ["CocoFolder"]


@register_data
@dataclass(frozen=True, kw_only=True)
class CocoFolder(Data):
    """Images with boxes and masks as COCO keeps them. Images have their own sizes; networks resize them. Evaluation is on ``val``.

    Boxes are in pixels of the file as it is stored, as COCO's own tools read it, unless the listed size is that of the image as a camera's EXIF says that it is
    shown.

    Raises:
        ValueError: files or folders are missing; the JSON is not of this format, or names what it does not hold; an image is not of the size it says, or a
            camera's orientation leaves open how its boxes lie.
    """

    targets: ClassVar[str] = "boxes"

    root: Path
    """Folder that holds images and annotations."""
    train_images: str = "train2017"
    """Folders and files below ``root``."""
    train_annotations: str = "annotations/instances_train2017.json"
    """File of the training annotations, below root."""
    val_images: str = "val2017"
    """Folder of the validation images, below root."""
    val_annotations: str = "annotations/instances_val2017.json"
    """File of the validation annotations, below root."""
    img_size: int = 800
    """Side of the square image that costs are counted for. Images are not resized by it."""
    masks: bool = True
    """Read masks beside boxes."""
    flip: bool = True
    """Mirror every second training image."""
    jitter: float = 0.0
    """Strength of random changes of brightness, contrast and saturation in training."""
    keep_empty: bool = False
    """Train on images without objects too. Evaluation always has them."""
    check: bool = True
    """Decode every image once at the start, to leave out the broken ones. Without it a broken file stops the run with its name."""
    drawn_on: Literal["unsaid", "stored", "shown"] = "unsaid"
    """Whether boxes lie on images as they are stored, or as a camera's EXIF says they are shown. Where an image has such a note and sizes leave open which it
    is, ``unsaid`` is an error."""

    def __post_init__(self) -> None:
        if self.img_size < 1 or not 0 <= self.jitter < 1:
            raise InputError(f"expected img_size of at least 1 and 0 ≤ jitter < 1, got {self.img_size} and {self.jitter}")

    def load(self) -> DetectionBundle:
        root, notes = Path(self.root), list[str]()
        parts, categories = {}, {}
        for name, images, annotations in (("train", self.train_images, self.train_annotations), ("val", self.val_images, self.val_annotations)):
            folder = need_folder(root / images, f"a folder of images, as {root / annotations} lists them")
            own: list[str] = []
            entries, categories[name] = read_annotations(root / annotations, folder, self.masks, own)
            entries = self._worth(name, entries)
            if self.check:
                entries = _readable(entries, self.drawn_on, own)
            if self.masks:
                look_at_masks(entries, own)
                entries = self._worth(name, entries)
            if not entries:
                raise InputError(f"{root / annotations} leaves no image to {name} with{''.join(f'; {note}' for note in own)}")
            notes += own
            if not any(not one["iscrowd"] for entry in entries for one in entry.objects):
                raise InputError(f"{root / annotations} has no object in the images of {name}: nothing could be learned from it or judged by it")
            parts[name] = entries
        if categories["train"] != categories["val"]:
            raise InputError(f"{self.train_annotations} and {self.val_annotations} list different categories: {categories['train']} and {categories['val']}")
        notes += _class_notes(parts, categories["train"])
        notes.append("there is no test split: the final numbers are those of val")
        train, evaluate = self._transforms()
        ids = tuple(categories["train"])
        built = {name: _Split(part, ids, self, train if name == "train" else evaluate, augments=name == "train") for name, part in parts.items()}
        return DetectionBundle(
            train=built["train"],
            val=built["val"],
            test=built["val"],
            classes=list(categories["train"].values()),
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(rgb(image))[0],
            notes=notes,
            masks=self.masks,
            category_ids=ids,
        )

    def _worth(self, name: str, entries: list[ImageEntry]) -> list[ImageEntry]:
        """Training leaves out images without objects, unless they are wanted."""
        if name != "train" or self.keep_empty:
            return entries
        return [entry for entry in entries if any(not one["iscrowd"] for one in entry.objects)]

    def smoke_data(self) -> "CocoFolder":
        """Scenes of digits in the same format."""
        # its files lie where COCO's own do
        return CocoFolder(root=coco(), img_size=64, masks=self.masks, flip=self.flip, jitter=self.jitter, keep_empty=self.keep_empty, check=self.check)

    def _transforms(self) -> tuple[Together, Together]:
        v2, _ = vision("detection in image files")
        return Together([v2.RandomHorizontalFlip()] if self.flip else [], self.jitter), Together()


class _Split:
    def __init__(self, entries: Sequence[ImageEntry], categories: Sequence[int], settings: CocoFolder, transform: Together, *, augments: bool) -> None:
        self.augments = augments
        self._entries, self._settings, self._transform = list(entries), settings, transform
        self._labels = {number: place for place, number in enumerate(categories)}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        entry = self._entries[index]
        objects = entry.objects
        # before the masks: its size is known to be true then, and none is made that no image has
        picture = _open(entry, self._settings.drawn_on)
        left, top, wide, high = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).view(-1, 4).unbind(1)
        target = {
            "boxes": torch.stack([left, top, left + wide, top + high], 1),
            "labels": torch.tensor([self._labels[one["category_id"]] for one in objects], dtype=torch.int64),
            "iscrowd": torch.tensor([one["iscrowd"] for one in objects], dtype=torch.int64),
            "area": torch.tensor([one["area"] for one in objects], dtype=torch.float32),
            "image_id": torch.tensor(entry.image_id),
        }
        if self._settings.masks:
            masks = [_mask(one["segmentation"], entry, one["id"]) for one in objects]
            target["masks"] = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *entry.size, dtype=torch.bool)
        return self._transform(picture, target)


def _mask(segmentation: Any, entry: ImageEntry, number: int) -> Any:
    """``(H, W)`` bool."""
    try:
        return decode_mask(segmentation, *entry.size)
    except InputError as error:
        raise InputError(f"{entry.listed_in}: the mask of annotation {number}: {error}") from error


def _open(entry: ImageEntry, drawn_on: str) -> Any:
    """A PIL image, turned as its boxes lie on it."""
    opened = open_picture(entry.file, hint="take it out, or load with check=True to leave such images out")
    choices = {"stored": opened, "shown": opened.turned(opened.orientation)}
    fits = [name for name, one in choices.items() if drawn_on in ("unsaid", name) and (one.image.height, one.image.width) == entry.size]
    if not fits:
        image = choices[drawn_on if drawn_on == "shown" else "stored"].image
        raise InputError(f"{entry.file} is {image.width}×{image.height}, but {entry.listed_in} says {entry.size[1]}×{entry.size[0]}")
    if len(fits) > 1 and opened.orientation > 1:
        raise InputError(
            f"{entry.file} has the orientation {opened.orientation} in its EXIF, and the size that {entry.listed_in} says fits it as stored and as shown: "
            "nobody can tell which its boxes were drawn on. Say --data.drawn-on stored or shown, or save it upright and without EXIF"
        )
    return choices[fits[0]].rgb()


def _readable(entries: Sequence[ImageEntry], drawn_on: str, notes: list[str]) -> list[ImageEntry]:
    """Those whose image is there and decodes. One of another size is an error: its boxes would lie elsewhere."""
    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(lambda entry: _problem(entry, drawn_on), entries))
    broken = [problem for problem in problems if problem]
    if broken:
        notes.append(f"{len(broken)} unreadable images were left out: {few(broken)}")
    return [entry for entry, problem in zip(entries, problems, strict=True) if not problem]


def _problem(entry: ImageEntry, drawn_on: str) -> str:
    try:
        _open(entry, drawn_on)
    except Unreadable as error:
        return str(error).partition("; ")[0]
    return ""


def _class_notes(parts: Mapping[str, Sequence[ImageEntry]], categories: Mapping[int, str]) -> list[str]:
    """Classes without an object, and images that are in both parts."""
    notes = []
    for name, entries in parts.items():
        seen = {one["category_id"] for entry in entries for one in entry.objects if not one["iscrowd"]}
        absent = [label for number, label in categories.items() if number not in seen]
        if absent:
            notes.append(f"{len(absent)} of {len(categories)} classes have no object in {name}: {few(absent)}")
    both = sorted({real_place(entry.file) for entry in parts["train"]} & {real_place(entry.file) for entry in parts["val"]})
    if both:
        notes.append(f"{len(both)} images are in train and in val, so that numbers flatter: {few(both, 5)}")
    return notes
