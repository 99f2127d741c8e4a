"""Regions in LXMERT's TSV: a line an image, with features and boxes in base64.

The file is read once from end to end for where each image stands, and checked there without decoding: a line's fields, and that features and boxes are as many
as it says. Where images stand is kept in the cache folder, for files have tens of gigabytes. An image is decoded when it is asked for, so that files need not
fit into memory.
"""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from .._cache import cached

__all__ = ["FIELDS", "RegionTsv", "Regions"]

FIELDS = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes", "features")
"""Columns of a line, which has no head."""
_OFF = 1e-5
"""By how much of the image a box may lie outside of it."""
_VERSION = 1


@dataclass(frozen=True)
class Regions:
    """One image."""

    features: Tensor
    """``(M, F)``."""
    boxes: Tensor
    """Left, top, right, bottom as shares of the image, ``(M, 4)``."""


class RegionTsv:
    """A file of regions, image by image.

    Args:
        path: of the file.

    Raises:
        ValueError: there is no such file, or it is empty; a line with other fields, with numbers that are none, or with another number of features or boxes
            than it says; an image that is there twice. When an image is read: values that are not finite, boxes outside of it. The message names the line.
    """

    places: dict[str, int]
    """Where the line of an image begins, by its name, in the order of the file."""
    region_dim: int
    """F."""
    most: int
    """Regions of the image that has most."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path} is no file; expected a TSV of regions, as LXMERT's *_obj36.tsv")
        self.path = path
        index = cached(path.stem, [path], (_VERSION, "regions by name"), lambda: _index(path), folder="regions")
        self.places = dict(zip(index["names"].tolist(), index["places"].tolist(), strict=True))
        self.region_dim, self.most = index["sizes"].tolist()

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Regions:
        where = f"{self.path}, image {name}"
        with self.path.open("rb") as file:
            file.seek(self.places[name])
            fields = _fields(file.readline(), where)
        count, width, height = (int(fields[key]) for key in ("num_boxes", "img_w", "img_h"))
        boxes, features = (_decoded(fields[key], where, key).reshape(count, -1) for key in ("boxes", "features"))
        if not np.isfinite(boxes).all() or not np.isfinite(features).all():
            raise InputError(f"{where}: boxes or features are not finite; take the file from a copy")
        pixels, boxes = boxes, boxes / np.array([width, height, width, height], np.float32)
        if boxes.min() < -_OFF or boxes.max() > 1 + _OFF or (boxes[:, 2:] < boxes[:, :2]).any():
            low, high = pixels.min(0).tolist(), pixels.max(0).tolist()
            raise InputError(f"{where}: expected boxes as left, top, right, bottom in pixels within {width}×{height}, got {low} to {high}")
        return Regions(torch.from_numpy(np.array(features)), torch.from_numpy(boxes))

    def called(self, name: str) -> dict[str, Tensor]:
        """What the detector calls the regions of an image: ``objects``, ``attributes``, and how sure it is, ``objects_conf``, ``attributes_conf``; ``(M,)``.

        Raises:
            ValueError: they are no base64 of as many numbers as there are regions.
        """
        where = f"{self.path}, image {name}"
        with self.path.open("rb") as file:
            file.seek(self.places[name])
            fields = _fields(file.readline(), where)
        found = {}
        for key, kind in (("objects_id", "<i8"), ("objects_conf", "<f4"), ("attrs_id", "<i8"), ("attrs_conf", "<f4")):
            values = _decoded(fields[key], where, key, kind)
            if len(values) != int(fields["num_boxes"]):
                raise InputError(f"{where}: num_boxes is {int(fields['num_boxes'])}, and {key} holds {len(values)} numbers; take the file from a copy")
            found[key.removesuffix("_id").replace("attrs", "attributes")] = torch.from_numpy(values)
        return found


def _index(path: Path) -> dict[str, NDArray[Any]]:
    """Where the line of each image begins, and the sizes, all lines checked."""
    places: dict[str, int] = {}
    place, dim, most = 0, 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                name, count, dim = _checked(line, where, dim)
                if name in places:
                    raise InputError(f"{where}: image {name} is there a second time; leave one of them out")
                places[name], most = place, max(most, count)
            place += len(line)
    if not places:
        raise InputError(f"{path} is empty; expected a line an image with {', '.join(FIELDS)}")
    return {"names": np.array(list(places)), "places": np.array(list(places.values())), "sizes": np.array([dim, most])}


def _checked(line: bytes, where: str, wanted_dim: int) -> tuple[str, int, int]:
    """Name, number of regions and width of their features; ``wanted_dim`` is that of the lines before, 0 in the first."""
    fields = _fields(line, where)
    numbers = {}
    for key in ("img_h", "img_w", "num_boxes"):
        if not fields[key].isdigit() or int(fields[key]) < 1:
            raise InputError(f"{where}: expected a whole number above 0 as {key}, got {_short(fields[key])}")
        numbers[key] = int(fields[key])
    name, count = fields["img_id"].decode("utf8", "replace"), numbers["num_boxes"]
    if not name:
        raise InputError(f"{where}: expected an img_id, got none")
    boxes, features = (_values(fields[key], where, key) for key in ("boxes", "features"))
    if boxes != 4 * count:
        raise InputError(f"{where}: num_boxes is {count}, and there are {boxes / 4:g} boxes; features and boxes must be as many as it says (image {name})")
    dim, rest = divmod(features, count)
    if rest or not dim or wanted_dim not in (0, dim):
        wanted = f"{count} × {wanted_dim}" if wanted_dim else f"a multiple of {count}"
        raise InputError(f"{where}: num_boxes is {count}, and features hold {features} numbers; expected {wanted} (image {name})")
    return name, count, dim


def _fields(line: bytes, where: str) -> dict[str, bytes]:
    parts = line.rstrip(b"\r\n").split(b"\t")
    if len(parts) != len(FIELDS):
        raise InputError(f"{where}: expected {len(FIELDS)} fields between tabs ({', '.join(FIELDS)}), got {len(parts)}; is the file cut off?")
    return dict(zip(FIELDS, parts, strict=True))


def _values(text: bytes, where: str, key: str) -> int:
    """How many single-precision numbers a text in base64 holds."""
    size, rest = divmod(len(text) * 3 // 4 - text[-2:].count(b"="), 4)
    if len(text) % 4 or rest:
        raise InputError(f"{where}: {key} are no base64 of single-precision numbers ({len(text)} characters); is the file cut off?")
    return size


def _decoded(text: bytes, where: str, key: str, kind: str = "<f4") -> Any:
    stored = np.dtype(kind)
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), stored).astype(stored.newbyteorder("="))
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: {key} are no base64 of numbers of {stored.itemsize} bytes: {error}") from None


def _short(text: bytes) -> str:
    return repr(text[:40].decode("utf8", "replace"))
