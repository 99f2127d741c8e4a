"""Features of regions in LXMERT's TSV: a row an image, read when it is asked for; the whole file is looked at once before.

Official   airsplay/lxmert ``src/utils.py``: fields without a head, tab-separated; ``boxes`` and ``features`` base64 of float32, ``(num_boxes, 4)`` in pixels
           and ``(num_boxes, F)``
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import InputError
from .._cache import cached

__all__ = ["FIELDS", "RegionFile", "number_of"]

FIELDS = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes", "features")
_VERSION = 1


def number_of(image: str) -> int | None:
    """Of an image's id, as 42 of ``COCO_val2014_000000000042``; None where it has none."""
    found = re.search(r"(\d+)(?:\.\w+)?$", image)
    return int(found[1]) if found else None


class RegionFile:
    """Regions by number of the image.

    Args:
        path: of the file.

    Raises:
        ValueError: there is no such file; a row has other fields, no number, as many boxes or features as it does not say, or features of another width; two
            rows are of one image. The message names the row.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path} is no file; expected features of regions in LXMERT's TSV")
        self.path = path
        index = cached(path.stem, [path], (_VERSION, "regions"), lambda: _index(path), folder="regions")
        self._at = {int(number): int(at) for number, at in zip(index["numbers"], index["offsets"], strict=True)}
        self.most, self.width = int(index["sizes"][0]), int(index["sizes"][1])

    def __contains__(self, number: int) -> bool:
        return number in self._at

    def inputs(self, number: int) -> dict[str, Tensor]:
        """``regions`` ``(R, F)``, ``boxes`` ``(R, 4)`` from 0 to 1, ``there`` ``(R,)``; R is the most that an image has."""
        with self.path.open("rb") as file:
            file.seek(self._at[number])
            row = dict(zip(FIELDS, file.readline().decode("utf8").rstrip("\r\n").split("\t"), strict=True))
        count, size = int(row["num_boxes"]), np.array([float(row["img_w"]), float(row["img_h"])] * 2, np.float32)
        regions, boxes = torch.zeros(self.most, self.width), torch.zeros(self.most, 4)
        regions[:count] = torch.from_numpy(_floats(row["features"]).reshape(count, self.width))
        boxes[:count] = torch.from_numpy((_floats(row["boxes"]).reshape(count, 4) / size).clip(0, 1))
        return {"regions": regions, "boxes": boxes, "there": torch.arange(self.most) < count}


def _floats(text: str) -> NDArray[np.float32]:
    # a copy, which may be written to: torch warns of memory that may not
    return np.frombuffer(base64.b64decode(text), np.float32).copy()


def _index(path: Path) -> dict[str, NDArray[Any]]:
    """Where the row of each image begins; all that its lengths say is checked, and one row's floats are read."""
    offsets: dict[int, int] = {}
    at, most, width = 0, 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, row {number}"
            values = line.rstrip(b"\r\n").split(b"\t")
            if len(values) != len(FIELDS):
                raise InputError(f"{where}: expected {len(FIELDS)} fields between tabs ({', '.join(FIELDS)}), got {len(values)}; is the file cut off?")
            row = dict(zip(FIELDS, values, strict=True))
            image, where = _image(row, where)
            count, boxes, features = _whole(row["num_boxes"], where), _bytes(row["boxes"], where) / 16, _bytes(row["features"], where) / 4
            if not count or boxes != count or features % count:
                raise InputError(
                    f"{where}: num_boxes is {count}, and there are {boxes:g} boxes and {features:g} floats of features; "
                    "expected as many boxes, and rows of features"
                )
            if width and features // count != width:
                raise InputError(f"{where}: {features / count:g} features a region, and rows before have {width}")
            if image in offsets:
                raise InputError(f"{where}: there is a row of image {image} already")
            if not width and not np.isfinite(_floats(row["features"].decode())).all():
                raise InputError(f"{where}: its features are no finite float32")
            width, most = int(features // count), max(most, count)
            offsets[image] = at
            at += len(line)
    if not offsets:
        raise InputError(f"{path} has no row")
    return {"numbers": np.array(list(offsets)), "offsets": np.array(list(offsets.values())), "sizes": np.array([most, width])}


def _image(row: dict[str, bytes], where: str) -> tuple[int, str]:
    name = row["img_id"].decode("utf8", errors="replace")
    number = number_of(name)
    if number is None:
        raise InputError(f"{where}: expected an id of an image that ends in its number, got {name[:40]!r}")
    return number, f"{where} ({name})"


def _whole(text: bytes, where: str) -> int:
    if not text.isdigit():
        raise InputError(f"{where}: expected num_boxes as a whole number, got {text[:20]!r}")
    return int(text)


def _bytes(text: bytes, where: str) -> int:
    """How many bytes a base64 text stands for; only its end is read."""
    try:
        return len(text) // 4 * 3 - 3 + len(base64.b64decode(text[-4:], validate=True)) if text and len(text) % 4 == 0 else _no_base64(where)
    except binascii.Error:
        return _no_base64(where)


def _no_base64(where: str) -> int:
    raise InputError(f"{where}: boxes or features are no base64 of floats; is the file cut off?")
