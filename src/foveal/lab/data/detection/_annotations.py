"""A JSON file in COCO's format, looked at whole before any of it is used: every field of every image, annotation and category."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...._errors import InputError
from .._foreign import Entry, read_json, real_place
from ._masks import look_at_mask

__all__ = ["ImageEntry", "look_at_masks", "read_annotations"]

_SIDE = 2**31


@dataclass(frozen=True)
class ImageEntry:
    """An image that a file lists, with its objects."""

    file: Path
    image_id: int
    size: tuple[int, int]
    """Height and width."""
    objects: list[dict[str, Any]]
    listed_in: Path


@dataclass
class _LeftOut:
    """What is left out of a file, how often, and the first of it."""

    counts: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, why: str, number: int) -> None:
        self.counts.setdefault(why, [0, number])[0] += 1

    def of(self, why: str) -> int:
        return int(self.counts.get(why, [0])[0])

    def notes(self, path: Path) -> list[str]:
        return [f"{path.name}: {count} {why}, such as that of annotation {number}" for why, (count, number) in self.counts.items()]


_FLAT = "boxes without width or height were left out"
_OUTSIDE = "boxes wholly outside of their image were left out"
_BEYOND = "boxes reach beyond their image by more than a pixel"
_EMPTY = "masks without a pixel in their image were left out, with their boxes"


def read_annotations(path: Path, folder: Path, masks: bool, notes: list[str]) -> tuple[list[ImageEntry], dict[int, str]]:
    """Images with their objects in the order of the file, and names of categories by number, in the order of numbers.

    Args:
        path: of the JSON file.
        folder: of the images.
        masks: whether masks are read.
        notes: are told what is left out.

    Raises:
        ValueError: the file is not there or not in this format; a field is missing or of another type; an id comes twice, or is not listed; a box or a mask
            means nothing. The message names file and entry.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; expected annotations in COCO's format")
    values = read_json(path)
    names = _categories(path, _list_of(values, "categories", path))
    images = _images(path, folder, _list_of(values, "images", path))
    left_out, numbers, boxes = _LeftOut(), set[int](), list[tuple[float, float]]()
    for place, value in enumerate(_list_of(values, "annotations", path)):
        one = Entry(value, path, f"the annotation at place {place}")
        number = one.whole("id")
        one = one.named(f"annotation {number}")
        if number in numbers:
            raise InputError(f"{path} has two annotations of the id {number}; expected one each")
        numbers.add(number)
        image, category = one.whole("image_id"), one.whole("category_id")
        if image not in images or category not in names:
            missing = f"image {image}" if image not in images else f"category {category}"
            raise InputError(f"{path}: annotation {number} is of {missing}, which the file does not list")
        kept = _object(one, number, images[image], masks, left_out, boxes)
        if kept is not None:
            images[image].objects.append({**kept, "id": number, "category_id": category})
    _look_at_boxes(path, boxes, left_out)
    notes += left_out.notes(path)
    return list(images.values()), names


def look_at_masks(entries: Sequence[ImageEntry], notes: list[str]) -> None:
    """The masks of images whose size is known to be true; objects without a pixel are taken out.

    Raises:
        ValueError: a mask means nothing, or belongs to an image of another size.
    """
    left_out = _LeftOut()
    for entry in entries:
        there = []
        for one in entry.objects:
            try:
                seen = look_at_mask(one["segmentation"], *entry.size)
            except InputError as error:
                raise InputError(f"{entry.listed_in}: the mask of annotation {one['id']} cannot be read: {error}") from None
            if seen:
                there.append(one)
            else:
                left_out.add(_EMPTY, one["id"])
        entry.objects[:] = there
    if entries:
        notes += left_out.notes(entries[0].listed_in)


def _list_of(values: Any, name: str, path: Path) -> list[Any]:
    found = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(found, list):
        raise InputError(f"{path} is not in COCO's format: it has no list {name!r}; expected images, annotations and categories")
    return found


def _categories(path: Path, listed: list[Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, value in enumerate(listed):
        one = Entry(value, path, f"the category at place {place}")
        number = one.whole("id")
        if number in names:
            raise InputError(f"{path} has two categories of the id {number}, {names[number]!r} and {one.text('name')!r}; expected one each")
        names[number] = one.named(f"category {number}").text("name")
    if not names:
        raise InputError(f"{path} lists no categories")
    if len(set(names.values())) < len(names):
        raise InputError(f"{path} has categories of one name: {', '.join(names.values())}")
    return dict(sorted(names.items()))


def _images(path: Path, folder: Path, listed: list[Any]) -> dict[int, ImageEntry]:
    images: dict[int, ImageEntry] = {}
    files: dict[str, int] = {}
    for place, value in enumerate(listed):
        one = Entry(value, path, f"the image at place {place}")
        number = one.whole("id")
        one = one.named(f"image {number}")
        if number in images:
            raise InputError(f"{path} lists two images of the id {number}; expected one each")
        file = folder / one.text("file_name")
        real = real_place(file)
        if real in files:
            raise InputError(f"{path} lists {file.name} twice, as image {files[real]} and as image {number}; expected once, with all of its annotations")
        files[real] = number
        size = (one.whole("height", least=1, most=_SIDE), one.whole("width", least=1, most=_SIDE))
        images[number] = ImageEntry(file, number, size, [], path)
    return images


def _object(one: Entry, number: int, image: ImageEntry, masks: bool, left_out: _LeftOut, boxes: list[tuple[float, float]]) -> dict[str, Any] | None:
    """What is kept of an annotation; None if it is left out."""
    segmentation = one.get("segmentation")
    if masks and not segmentation:
        raise InputError(f"{image.listed_in}: annotation {number} has no mask; give masks=False to use boxes alone")
    box = one.reals("bbox", 4)
    left, top, wide, high = box
    if min(wide, high) < 0:
        raise one.wrong("bbox", "left, top, width and height, none of the latter below 0")
    crowd = one.get("iscrowd") if one.get("iscrowd") is not None else 0
    if crowd not in (0, 1):
        raise one.wrong("iscrowd", "0 or 1")
    area = one.real("area") if "area" in one else wide * high
    if area < 0:
        raise one.wrong("area", "pixels, 0 or more")
    if min(wide, high) == 0:
        left_out.add(_FLAT, number)
        return None
    height, width = image.size
    boxes.append((left + wide, top + high))
    if left >= width or top >= height or left + wide <= 0 or top + high <= 0:
        left_out.add(_OUTSIDE, number)
        return None
    if left < -width or top < -height or left + wide > 2 * width or top + high > 2 * height:
        raise one.wrong("bbox", f"left, top, width and height in pixels; it goes far beyond its image of {width}×{height}")
    kept = {"bbox": box, "iscrowd": int(crowd), "area": area}
    if masks:
        kept["segmentation"] = segmentation
    if min(left, top) < -1 or left + wide > width + 1 or top + high > height + 1:
        left_out.add(_BEYOND, number)
    return kept


def _look_at_boxes(path: Path, ends: list[tuple[float, float]], left_out: _LeftOut) -> None:
    """Whether the boxes of a file as a whole are what this format has."""
    wrong = left_out.of(_OUTSIDE) + left_out.of(_BEYOND)
    if 2 * wrong > len(ends):
        number = next(left_out.counts[why][1] for why in (_OUTSIDE, _BEYOND) if why in left_out.counts)
        raise InputError(
            f"{path}: {wrong} of {len(ends)} boxes lie outside of their image or reach beyond it, such as that of annotation {number}; "
            "expected bbox as left, top, width and height in pixels, not as two corners"
        )
    if ends and all(max(end) <= 1 for end in ends):
        raise InputError(f"{path}: no box reaches beyond the first pixel of its image; expected bbox in pixels, not as shares of the image")
