"""Regions in shards of safetensors: a third less on disk than base64, a sixth less than that in half precision, and nothing to decode.

A shard holds ``features`` ``(sum M, F)`` and ``boxes`` ``(sum M, 4)`` of its images in a row, ``starts`` ``(images + 1,)``, and their names in its metadata.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...._errors import InputError, missing_extra
from ...._files import parse_json
from ...._weights import write_stamped
from ._tsv import Regions, RegionTsv

__all__ = ["RegionShards", "open_regions", "write_regions"]

_FORMAT = "foveal-regions-1"


class RegionShards:
    """A folder of :func:`write_regions`, image by image; read where they are asked for.

    Raises:
        ValueError: no folder, or no shard in it; a file that is none; an image that is there twice; shards of other features.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.places = folder, dict[str, tuple[Path, int, int]]()
        self.region_dim = 0
        self._files: dict[Path, Any] = {}
        paths = sorted(folder.glob("regions-*.safetensors")) if folder.is_dir() else []
        if not paths:
            raise InputError(f"{folder} holds no regions-*.safetensors; make them with: foveal data regions FILE.tsv --out {folder}")
        for path in paths:
            for name, start, end in self._listed(path):
                if name in self.places:
                    raise InputError(f"{path}: image {name} is also in {self.places[name][0].name}; leave one of them out")
                self.places[name] = (path, start, end)
        self._files = {}

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Regions:
        path, start, end = self.places[name]
        file = self._open(path)
        return Regions(file.get_slice("features")[start:end].float(), file.get_slice("boxes")[start:end])

    def __getstate__(self) -> dict[str, Any]:
        # files that are open belong to one process
        return self.__dict__ | {"_files": {}}

    def _open(self, path: Path) -> Any:
        try:
            from safetensors import safe_open
        except ImportError as error:
            raise missing_extra("safetensors", "train", "reading regions") from error
        if path not in self._files:
            try:
                self._files[path] = safe_open(str(path), "pt")
            except Exception as error:
                raise InputError(f"{path} is no safetensors file, or is damaged: {error}; make it again with: foveal data regions") from None
        return self._files[path]

    def _listed(self, path: Path) -> Iterator[tuple[str, int, int]]:
        file = self._open(path)
        said = file.metadata() or {}
        if said.get("format") != _FORMAT:
            raise InputError(f"{path} is no shard of regions: expected the format {_FORMAT!r}, got {said.get('format')!r}")
        remedy = "make it again with: foveal data regions"
        try:
            dim, starts = file.get_slice("features").get_shape()[1], file.get_tensor("starts").tolist()
        except Exception as error:
            raise InputError(f"{path} is damaged: it has no features by image: {error}; {remedy}") from error
        names = parse_json(said.get("images", ""), f"the list of images in {path}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != len(starts) - 1:
            raise InputError(f"{path} is damaged: it names other images than it holds; {remedy}")
        if self.region_dim not in (0, dim):
            raise InputError(f"{path} has features of {dim} numbers, and shards before it {self.region_dim}; put them into folders of their own")
        self.region_dim = dim
        yield from zip(names, starts[:-1], starts[1:], strict=True)


def open_regions(path: Path) -> RegionTsv | RegionShards:
    """Regions of a ``.tsv``, or of a folder of shards.

    Raises:
        ValueError: neither, or a broken one.
    """
    return RegionTsv(path) if path.suffix == ".tsv" else RegionShards(path)


def write_regions(tsv: RegionTsv, folder: Path, *, half: bool = False, per_shard: int = 1000) -> list[Path]:
    """Make shards of a TSV. Memory is needed for one shard.

    Args:
        tsv: checked and open.
        folder: where to; it is made, and must hold no shards.
        half: features in half precision, of which about three digits are left.
        per_shard: images of a shard.

    Raises:
        ValueError: shards are there already; values that half precision cannot hold; an image that cannot be read.
    """
    if per_shard < 1:
        raise InputError(f"a shard holds at least 1 image, got per_shard={per_shard}")
    if folder.exists() and list(folder.glob("regions-*.safetensors")):
        raise InputError(f"{folder} holds shards of regions already; give another folder, or remove them")
    folder.mkdir(parents=True, exist_ok=True)
    names, written = list(tsv.places), []
    for number, first in enumerate(range(0, len(names), per_shard)):
        part = names[first : first + per_shard]
        images = [tsv[name] for name in part]
        features = torch.cat([image.features for image in images])
        if half and features.abs().max() > torch.finfo(torch.float16).max:
            raise InputError(f"{tsv.path} has features of {features.abs().max():.3g}, which half precision cannot hold; leave half out")
        starts = torch.tensor([0, *(len(image.features) for image in images)]).cumsum(0)
        tensors = {"features": features.half() if half else features, "boxes": torch.cat([image.boxes for image in images]), "starts": starts}
        path = folder / f"regions-{number:05}.safetensors"
        write_stamped(path, tensors, {"format": _FORMAT, "images": json.dumps(part)}, "writing regions")
        written.append(path)
    return written
