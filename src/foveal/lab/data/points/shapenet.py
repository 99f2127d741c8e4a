"""ShapeNet-Part (Yi et al. 2016) as it is passed around: 16 classes of shapes, 50 parts, a label for each point.

``ShapeNetPartTxt``  ROOT (shapenetcore_partanno_segmentation_benchmark_v0_normal) with synsetoffset2category.txt, SYNSET/*.txt, and train_test_split with
                     shuffled_{train, val, test}_file_list.json
``ShapeNetPartH5``   ROOT (hdf5_data) with ply_data_train0.h5 …, {train, val, test}_hdf5_file_list.txt and all_object_categories.txt
"""

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError
from .._bundle import register_data
from .._cache import cached
from .._foreign import few, read_json
from . import _miniature
from ._bundle import PARTS, PointBundle, no_picture
from ._clouds import CloudFiles, Clouds, Stored, in_unit_ball
from ._lists import files_of_list, lines_of_list, need_folder
from .formats import read_cloud_txt, read_parts_h5

__all__ = ["PARTS_OF", "ShapeNetPartH5", "ShapeNetPartTxt"]

PARTS_OF: dict[str, tuple[int, ...]] = {
    **{"airplane": (0, 1, 2, 3), "bag": (4, 5), "cap": (6, 7), "car": (8, 9, 10, 11), "chair": (12, 13, 14, 15), "earphone": (16, 17, 18)},
    **{"guitar": (19, 20, 21), "knife": (22, 23), "lamp": (24, 25, 26, 27), "laptop": (28, 29), "motorbike": (30, 31, 32, 33, 34, 35), "mug": (36, 37)},
    **{"pistol": (38, 39, 40), "rocket": (41, 42, 43), "skateboard": (44, 45, 46), "table": (47, 48, 49)},
}
"""Numbers of the parts of each class, in the order of the classes."""
_LEAST = 32
"""Points: a file with fewer is no shape, and the published neighborhoods have as many."""


@dataclass(frozen=True, kw_only=True)
class _ShapeNetPart(CloudFiles):
    """What the two share."""

    targets: ClassVar[str] = PARTS

    num_points: int = 2048
    """Of a cloud, in training and evaluation."""
    train_on: Literal["train", "trainval"] = "train"
    """Train on the official training split, or on that and validation together, as the published trainings do; validation is the test split then."""

    @abstractmethod
    def part(self, split: str) -> Stored:
        """Clouds of an official split, ``train``, ``val`` or ``test``."""

    def load(self) -> PointBundle:
        parts = {split: self.part(split) for split in ("train", "val", "test")}
        for split, stored in parts.items():
            if not len(stored):
                raise InputError(f"{self.root} has no clouds in {split}")
        notes = self.notes()
        if self.train_on == "trainval":
            parts["train"] = _together(parts["train"], parts["val"])
            notes = ["trained on train and val together, as is published: validation is the test split; whatever is chosen by it is chosen on the test", *notes]
        train, test = Clouds(self, parts["train"], "train", augments=True), Clouds(self, parts["test"], "test", augments=False)
        return PointBundle(
            train=train,
            val=test if self.train_on == "trainval" else Clouds(self, parts["val"], "val", augments=False),
            test=test,
            classes=[f"{shape} {place}" for shape, numbers in PARTS_OF.items() for place in range(len(numbers))],
            img_size=0,
            in_chans=self.channels,
            prepare=no_picture,
            notes=notes,
            num_points=self.num_points,
            num_shapes=len(PARTS_OF),
            shapes=tuple(PARTS_OF),
            parts_of_shape=tuple(PARTS_OF.values()),
            up_axis=self.up_axis,
        )


@register_data
@dataclass(frozen=True, kw_only=True)
class ShapeNetPartTxt(_ShapeNetPart):
    """ShapeNet-Part with normals, a text file a shape, with its official split. Points are drawn out of all of a file: anew in training, once in evaluation."""

    all_points: ClassVar[bool] = True

    def part(self, split: str) -> Stored:
        root = need_folder(self.root, "shapenetcore_partanno_segmentation_benchmark_v0_normal, with synsetoffset2category.txt and train_test_split")
        shapes = _synsets(root / "synsetoffset2category.txt")
        file = root / "train_test_split" / f"shuffled_{split}_file_list.json"
        listed = read_json(file)
        if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
            raise InputError(f"{file} must be a list of shapes such as shape_data/02691156/1021a0914a7207aff927ed529ad90a11")
        if not listed:
            raise InputError(f"{file} lists no shapes")
        if twice := [line for line, count in Counter(listed).items() if count > 1]:
            raise InputError(f"{file} has {few(twice)} twice")
        paths, labels = [], []
        for line in listed:
            synset, _, name = line.removeprefix("shape_data/").partition("/")
            if synset not in shapes or not name or "/" in name:
                raise InputError(f"{file} lists {line}, whose class is none of {root / 'synsetoffset2category.txt'}: {', '.join(shapes)}")
            paths.append(root / synset / f"{name}.txt")
            labels.append(shapes[synset])

        def make() -> dict[str, NDArray[Any]]:
            clouds, parts = [], []
            for path, label in zip(paths, labels, strict=True):
                cloud = read_cloud_txt(path, 7, at_least=_LEAST)
                parts.append(_checked_parts(cloud[:, 6], label, str(path)))
                clouds.append(in_unit_ball(cloud[:, :6], path))
            return Stored.of(clouds, labels, parts).arrays()

        arrays = cached(f"ShapeNetPartTxt-{split}", paths, ("ShapeNetPartTxt", labels), make)
        return Stored(np.ascontiguousarray(arrays["points"][:, : self.channels]), arrays["ends"], np.asarray(labels, np.int64), arrays["parts"])

    def smoke_data(self) -> "ShapeNetPartTxt":
        """Solids with parts from below to above, in the same format."""
        return replace(self, root=_miniature.shapenet_txt(), num_points=_miniature.POINTS)


@register_data
@dataclass(frozen=True, kw_only=True)
class ShapeNetPartH5(_ShapeNetPart):
    """ShapeNet-Part, 2,048 points of each shape without normals in HDF5 files, with its official split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normals:
            raise InputError("ShapeNet-Part in HDF5 has no normals; leave normals out, or read the text files: ShapeNetPartTxt")

    def part(self, split: str) -> Stored:
        root = need_folder(self.root, "hdf5_data as it unpacks, with ply_data_train0.h5 and train_hdf5_file_list.txt")
        shapes = list(_synsets(root / "all_object_categories.txt").values())
        clouds, labels, parts = [], [], []
        for path in files_of_list(root / f"{split}_hdf5_file_list.txt"):
            found, label, by_point = read_parts_h5(path, at_least=self.num_points)
            if len(label) and not 0 <= label.min() <= label.max() < len(shapes):
                raise InputError(f"{path} has labels from {label.min()} to {label.max()}; {root / 'all_object_categories.txt'} names 0 to {len(shapes) - 1}")
            for place, own in enumerate(label.tolist()):
                parts.append(_checked_parts(by_point[place, : self.num_points], shapes[own], f"cloud {place} of {path}"))
                clouds.append(found[place, : self.num_points])
                labels.append(shapes[own])
        if not clouds:
            return Stored(np.empty((0, 3), np.float32), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
        return Stored.of(clouds, labels, parts)

    def smoke_data(self) -> "ShapeNetPartH5":
        """Solids with parts from below to above, in the same format."""
        return replace(self, root=_miniature.shapenet_h5(), num_points=_miniature.POINTS)


def _synsets(path: Path) -> dict[str, int]:
    """Numbers of classes by synset, in the order of the file: lines of a name and a synset."""
    found = {}
    for line in lines_of_list(path):
        name, _, synset = line.replace("\t", " ").partition(" ")
        if name.lower() not in PARTS_OF or not synset.strip():
            raise InputError(f"{path} has the line {line!r}; expected a class of ShapeNet-Part and its synset, such as Airplane 02691156")
        found[synset.strip()] = list(PARTS_OF).index(name.lower())
    if len(set(found.values())) < len(found):
        raise InputError(f"{path} gives one class to two synsets")
    return found


def _checked_parts(parts: NDArray[Any], shape: int, what: str) -> NDArray[np.int64]:
    """Labels of points, which must be of the parts of their shape."""
    name, allowed = list(PARTS_OF.items())[shape]
    whole = parts.astype(np.int64)
    foreign = ~np.isin(parts, allowed)
    if foreign.any():
        raise InputError(f"{what} is of class {name}, whose parts are {allowed[0]} to {allowed[-1]}, and has points with the part {parts[foreign][0]:g}")
    return whole


def _together(one: Stored, other: Stored) -> Stored:
    assert one.parts is not None, "sets of parts have parts"
    assert other.parts is not None, "sets of parts have parts"
    return Stored(
        np.concatenate([one.points, other.points]),
        np.concatenate([one.ends, other.ends + len(one.points)]),
        np.concatenate([one.labels, other.labels]),
        np.concatenate([one.parts, other.parts]),
    )
