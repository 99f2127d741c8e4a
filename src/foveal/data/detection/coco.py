"""Sets in COCO's format: a folder of images, and a JSON file with boxes and masks for each part."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..._errors import InputError, missing_extra
from .._bundle import Data, register_data
from .._together import Together, vision
from ..folder import _rgb
from ..segmentation._files import need_folder
from ._bundle import DetectionBundle
from ._miniature import coco

__all__ = ["CocoFolder"]


@register_data
@dataclass(frozen=True, kw_only=True)
class CocoFolder(Data):
    """Images with boxes and masks as COCO keeps them. Images have their own sizes; networks resize them. Evaluation is on ``val``.

    Boxes are in pixels of the file as it is stored: a camera's note of how it was held is not followed, as COCO's own tools do.

    Raises:
        ValueError: files or folders are missing; the JSON is not of this format, or names what it does not hold; an image is not of the size it says.
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

    def __post_init__(self) -> None:
        if self.img_size < 1 or not 0 <= self.jitter < 1:
            raise InputError(f"expected img_size of at least 1 and 0 ≤ jitter < 1, got {self.img_size} and {self.jitter}")

    def load(self) -> DetectionBundle:
        root, notes = Path(self.root), list[str]()
        parts, categories = {}, {}
        for name, images, annotations in (("train", self.train_images, self.train_annotations), ("val", self.val_images, self.val_annotations)):
            folder = need_folder(root / images, f"a folder of images, as {root / annotations} lists them")
            entries, categories[name] = _read_annotations(root / annotations, folder, self.masks, notes)
            if name == "train" and not self.keep_empty:
                entries = [entry for entry in entries if any(not one["iscrowd"] for one in entry.objects)]
            if self.check:
                entries = _readable(entries, notes)
            if not entries:
                raise InputError(f"{root / annotations} leaves no image to {name} with")
            parts[name] = entries
        if categories["train"] != categories["val"]:
            raise InputError(f"{self.train_annotations} and {self.val_annotations} list different categories: {categories['train']} and {categories['val']}")
        notes.append("there is no test split: the final numbers are those of val")
        train, evaluate = self._transforms()
        ids = tuple(categories["train"])
        built = {name: _Split(part, ids, self.masks, train if name == "train" else evaluate, augments=name == "train") for name, part in parts.items()}
        return DetectionBundle(
            train=built["train"],
            val=built["val"],
            test=built["val"],
            classes=list(categories["train"].values()),
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(_rgb(image))[0],
            notes=notes,
            masks=self.masks,
            category_ids=ids,
        )

    def stand_in(self) -> "CocoFolder":
        """Scenes of digits in the same format."""
        # its files lie where COCO's own do
        return CocoFolder(root=coco(), img_size=64, masks=self.masks, flip=self.flip, jitter=self.jitter, keep_empty=self.keep_empty, check=self.check)

    def _transforms(self) -> tuple[Together, Together]:
        v2, _ = vision("detection in image files")
        return Together([v2.RandomHorizontalFlip()] if self.flip else [], self.jitter), Together()


@dataclass(frozen=True)
class _Entry:
    file: Path
    image_id: int
    size: tuple[int, int]
    """Height and width."""
    objects: list[dict[str, Any]]
    listed_in: Path


class _Split:
    def __init__(self, entries: Sequence[_Entry], categories: Sequence[int], masks: bool, transform: Together, *, augments: bool) -> None:
        self.augments = augments
        self._entries, self._masks, self._transform = list(entries), masks, transform
        self._labels = {number: place for place, number in enumerate(categories)}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        entry = self._entries[index]
        objects = entry.objects
        left, top, wide, high = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).view(-1, 4).unbind(1)
        target = {
            "boxes": torch.stack([left, top, left + wide, top + high], 1),
            "labels": torch.tensor([self._labels[one["category_id"]] for one in objects], dtype=torch.int64),
            "iscrowd": torch.tensor([one["iscrowd"] for one in objects], dtype=torch.int64),
            "area": torch.tensor([one["area"] for one in objects], dtype=torch.float32),
            "image_id": torch.tensor(entry.image_id),
        }
        if self._masks:
            masks = [_mask(one["segmentation"], entry, one["id"]) for one in objects]
            target["masks"] = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *entry.size, dtype=torch.bool)
        return self._transform(_open(entry), target)


def _read_annotations(path: Path, folder: Path, masks: bool, notes: list[str]) -> tuple[list[_Entry], dict[int, str]]:
    """Images with their objects in the order of the file, and names of categories by number, in the order of numbers."""
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected annotations in COCO's format") from None
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in sorted(values["categories"], key=lambda entry: entry["id"])}
        listed = [_Entry(folder / entry["file_name"], int(entry["id"]), (entry["height"], entry["width"]), [], path) for entry in values["images"]]
        images = {entry.image_id: entry for entry in listed}
        flat = 0
        for one in values["annotations"]:
            number, image, category = one["id"], one["image_id"], one["category_id"]
            if image not in images or category not in names:
                missing = f"image {image}" if image not in images else f"category {category}"
                raise InputError(f"{path}: annotation {number} is of {missing}, which the file does not list")
            if masks and not one.get("segmentation"):
                raise InputError(f"{path}: annotation {number} has no mask; give masks=False to use boxes alone")
            box = [float(value) for value in one["bbox"]]
            if len(box) != 4 or min(box[2:]) <= 0:
                flat += 1
                continue
            area = float(one.get("area", box[2] * box[3]))
            kept = {"id": number, "category_id": category, "bbox": box, "iscrowd": int(one.get("iscrowd", 0)), "area": area}
            images[image].objects.append(kept | ({"segmentation": one["segmentation"]} if masks else {}))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not in COCO's format: {type(error).__name__} {error}; expected images, annotations and categories") from error
    if len(set(names.values())) < len(names):
        raise InputError(f"{path} has categories of one name: {', '.join(names.values())}")
    if flat:
        notes.append(f"{path.name}: {flat} boxes without width or height were left out")
    return list(images.values()), names


def _mask(segmentation: Any, entry: _Entry, number: int) -> Any:
    """``(H, W)`` bool from polygons, or from run lengths as numbers or packed."""
    try:
        from faster_coco_eval.core import mask as coco
    except ImportError as error:
        raise missing_extra("faster-coco-eval", "det", "reading masks in COCO's format") from error
    height, width = entry.size
    try:
        if isinstance(segmentation, list):
            packed = coco.merge(coco.frPyObjects(segmentation, height, width))
        else:
            packed = coco.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation
        mask = coco.decode(packed).astype(bool)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"{entry.listed_in}: the mask of annotation {number} cannot be read: {error}") from error
    if mask.shape != entry.size:
        raise InputError(f"{entry.listed_in}: the mask of annotation {number} is {mask.shape[1]}×{mask.shape[0]}, its image {width}×{height}")
    return mask


def _open(entry: _Entry) -> Any:
    from PIL import Image

    try:
        with Image.open(entry.file) as image:
            picture = _rgb(image, upright=False)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {entry.file}: {error}; take it out, or load with check=True to leave such images out") from error
    if (picture.height, picture.width) != entry.size:
        raise InputError(f"{entry.file} is {picture.width}×{picture.height}, but {entry.listed_in} says {entry.size[1]}×{entry.size[0]}")
    return picture


def _readable(entries: Sequence[_Entry], notes: list[str]) -> list[_Entry]:
    """Those whose image is there and decodes. One of another size is an error: its boxes would lie elsewhere."""
    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(_problem, entries))
    broken = [problem for problem in problems if problem]
    if broken:
        notes.append(f"{len(broken)} unreadable images were left out: " + "; ".join(broken))
    return [entry for entry, problem in zip(entries, problems, strict=True) if not problem]


def _problem(entry: _Entry) -> str:
    try:
        _open(entry)
    except InputError as error:
        if "cannot read" not in str(error):
            raise
        return str(error).partition(";")[0]
    return ""
