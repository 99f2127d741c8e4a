"""Regions of LXMERT's TSV by number of the image, as COCO and VQA name images, padded to one size."""

import re
from pathlib import Path

import torch
from torch import Tensor

from ...._errors import InputError
from ..regions import RegionTsv

__all__ = ["RegionFile", "number_of"]


def number_of(image: str) -> int | None:
    """Of an image's id, as 42 of ``COCO_val2014_000000000042``; None where it has none."""
    found = re.search(r"(\d+)(?:\.\w+)?$", image)
    return int(found[1]) if found else None


class RegionFile:
    """Regions by number of the image.

    Args:
        path: of the file.

    Raises:
        ValueError: see :class:`~foveal.lab.data.regions.RegionTsv`; an image whose id has no number, or two whose ids have the same.
    """

    def __init__(self, path: Path) -> None:
        self._tsv = RegionTsv(path)
        self.path, self.width, self.most = path, self._tsv.region_dim, self._tsv.most
        self._names: dict[int, str] = {}
        for name in self._tsv.places:
            number = number_of(name)
            if number is None:
                raise InputError(f"{path}: expected an id of an image that ends in its number, got {name[:40]!r}")
            if number in self._names:
                raise InputError(f"{path}: {self._names[number]} and {name} are both image {number}; leave one of them out")
            self._names[number] = name
        # floats of another kind show here, and not in the middle of a training
        self.inputs(next(iter(self._names)))

    def __contains__(self, number: int) -> bool:
        return number in self._names

    def inputs(self, number: int) -> dict[str, Tensor]:
        """``regions`` ``(R, F)``, ``boxes`` ``(R, 4)`` from 0 to 1, ``there`` ``(R,)``; R is the most that an image has."""
        image = self._tsv[self._names[number]]
        rest = (0, 0, 0, self.most - len(image.features))
        return {
            "regions": torch.nn.functional.pad(image.features, rest),
            # what lies outside by a rounding error
            "boxes": torch.nn.functional.pad(image.boxes.clamp(0, 1), rest),
            "there": torch.arange(self.most) < len(image.features),
        }
