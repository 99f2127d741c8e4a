"""ModelNet40 (Wu et al. 2015, arXiv 1406.5670) as it is passed around: in HDF5, as meshes, or as text. 40 classes, no validation split.

``ModelNet40H5``   ROOT (modelnet40_ply_hdf5_2048) with ply_data_train0.h5 …, ply_data_test0.h5 …, train_files.txt, test_files.txt, shape_names.txt
``ModelNet40Off``  ROOT/CLASS/{train, test}/*.off; points are drawn on the triangles evenly by area
``ModelNet40Txt``  ROOT (modelnet40_normal_resampled) with CLASS/CLASS_0001.txt, and modelnet40_train.txt, modelnet40_test.txt, modelnet40_shape_names.txt
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...._errors import InputError
from .._bundle import register_data, seed_of
from .._cache import cached
from .._foreign import few
from .._walk import Passed, folders_in
from . import _miniature
from ._bundle import SHAPES, PointBundle, no_picture
from ._clouds import CloudFiles, Clouds, Stored, in_unit_ball
from ._lists import files_of_list, lines_of_list, need_folder, visible_files
from .augment import Axis
from .formats import read_cloud_txt, read_clouds_h5, read_off, sample_surface

__all__ = ["ModelNet40H5", "ModelNet40Off", "ModelNet40Txt"]

Files = list[tuple[Path, int]]
_NO_VALIDATION = "ModelNet40 has no validation split: validation is the test split, as is published; whatever is chosen by it is chosen on the test"


@dataclass(frozen=True, kw_only=True)
class _ModelNet(CloudFiles):
    """What the three share."""

    targets: ClassVar[str] = SHAPES

    point_dropout: float = 0.875
    """Of a training cloud up to this share of points, itself drawn, become copies of its first point."""

    @abstractmethod
    def parts(self, passed: Passed) -> tuple[list[str], dict[str, Stored]]:
        """Names of classes, and ``train`` and ``test``."""

    def load(self) -> PointBundle:
        passed = Passed()
        classes, parts = self.parts(passed)
        for name, part in parts.items():
            if not len(part):
                raise InputError(f"{self.root} has no clouds in {name}")
        train, test = Clouds(self, parts["train"], "train", augments=True), Clouds(self, parts["test"], "test", augments=False)
        return PointBundle(
            train=train,
            val=test,
            test=test,
            classes=classes,
            img_size=0,
            in_chans=self.channels,
            prepare=no_picture,
            notes=[_NO_VALIDATION, *self.notes(), *passed.notes()],
            num_points=self.num_points,
            up_axis=self.up_axis,
        )

    def _read(self, name: str, files: Files, extra: Sequence[object] = ()) -> Stored:
        """Clouds of a file each, out of the cache or anew."""
        kind = type(self).__name__
        paths = [path for path, _ in files]
        labels = [label for _, label in files]

        def make() -> Stored:
            return Stored.of([in_unit_ball(self.cloud(path), path) for path in paths], labels)

        # the labels are of the files' places and cost nothing: they are not kept
        arrays = cached(f"{kind}-{name}", paths, (kind, self.num_points, *extra), lambda: make().arrays())
        return Stored(np.ascontiguousarray(arrays["points"][:, : self.channels]), arrays["ends"], np.asarray(labels, np.int64))

    def cloud(self, path: Path) -> np.ndarray:
        """Points with normals of a file, ``(num_points, 6)``."""
        raise NotImplementedError


@register_data
@dataclass(frozen=True, kw_only=True)
class ModelNet40H5(_ModelNet):
    """ModelNet40, 2,048 points of each mesh in HDF5 files, with its official split: 9,840 and 2,468 clouds. The first ``num_points`` are taken."""

    def parts(self, passed: Passed) -> tuple[list[str], dict[str, Stored]]:
        root = need_folder(self.root, "modelnet40_ply_hdf5_2048 as it unpacks, with ply_data_train0.h5 and shape_names.txt")
        names = lines_of_list(root / "shape_names.txt")
        parts = {}
        for split in ("train", "test"):
            clouds, labels = [], []
            for path in files_of_list(root / f"{split}_files.txt"):
                found, label = read_clouds_h5(path, normals=self.normals, at_least=self.num_points)
                if len(label) and not 0 <= label.min() <= label.max() < len(names):
                    raise InputError(f"{path} has labels from {label.min()} to {label.max()}; {root / 'shape_names.txt'} names 0 to {len(names) - 1}")
                clouds += list(found[:, : self.num_points])
                labels += label.tolist()
            parts[split] = Stored.of(clouds, labels) if clouds else Stored(np.empty((0, self.channels), np.float32), *[np.empty(0, np.int64)] * 2)
        return names, parts

    def smoke_data(self) -> "ModelNet40H5":
        """Solids in the same format."""
        return replace(self, root=_miniature.modelnet_h5(), num_points=_miniature.POINTS)


@register_data
@dataclass(frozen=True, kw_only=True)
class ModelNet40Off(_ModelNet):
    """ModelNet40's meshes, or others in its layout: as many points as are wanted are drawn on each once, evenly by area, and kept in the cache.

    What is drawn of a mesh is decided by the seed and its name.
    """

    up_axis: Axis = "z"
    """Which coordinate points up, about which z turns; in ModelNet's meshes z."""

    def parts(self, passed: Passed) -> tuple[list[str], dict[str, Stored]]:
        root = need_folder(self.root, "ModelNet40 as it unpacks, with CLASS/train/*.off and CLASS/test/*.off")
        folders = folders_in(root, passed, (".off",))
        if len(folders) < 2:
            raise InputError(f"{root} has {len(folders)} class folders; expected at least 2, as CLASS/train/*.off and CLASS/test/*.off")
        lists: dict[str, Files] = {"train": [], "test": []}
        for label, folder in enumerate(folders):
            for split, files in lists.items():
                found = visible_files(need_folder(folder / split, f"meshes of {folder.name} for {split}"), ".off", passed)
                if not found:
                    raise InputError(f"{folder / split} has no .off files; every class needs meshes to train and to test on, or remove its folder")
                files += [(path, label) for path in found]
        return [folder.name for folder in folders], {split: self._read(split, files, (self.seed,)) for split, files in lists.items()}

    def cloud(self, path: Path) -> np.ndarray:
        vertices, triangles = read_off(path)
        rng = np.random.default_rng(seed_of("mesh", self.seed, *path.parts[-3:]))
        return sample_surface(vertices, triangles, self.num_points, rng, path=path)

    def smoke_data(self) -> "ModelNet40Off":
        """Boxes and pyramids in the same format."""
        return replace(self, root=_miniature.modelnet_off(), num_points=_miniature.POINTS)


@register_data
@dataclass(frozen=True, kw_only=True)
class ModelNet40Txt(_ModelNet):
    """ModelNet40, 10,000 points with normals of each mesh in text files, with its official split. The first ``num_points`` are taken."""

    def parts(self, passed: Passed) -> tuple[list[str], dict[str, Stored]]:
        root = need_folder(self.root, "modelnet40_normal_resampled as it unpacks, with CLASS/CLASS_0001.txt and modelnet40_train.txt")
        names = lines_of_list(root / "modelnet40_shape_names.txt")
        number = {name: label for label, name in enumerate(names)}
        lists: dict[str, Files] = {}
        for split in ("train", "test"):
            listed = root / f"modelnet40_{split}.txt"
            lists[split] = []
            for line in lines_of_list(listed):
                # night_stand_0001
                kind = line.rpartition("_")[0]
                if kind not in number:
                    raise InputError(f"{listed} lists {line}, whose class {kind!r} is none of {root / 'modelnet40_shape_names.txt'}")
                lists[split].append((root / kind / f"{line}.txt", number[kind]))
        both = sorted({path.stem for path, _ in lists["train"]} & {path.stem for path, _ in lists["test"]})
        if both:
            raise InputError(f"{root} lists {few(both)} for training and for the test; take them out of one list")
        return names, {split: self._read(split, files) for split, files in lists.items()}

    def cloud(self, path: Path) -> np.ndarray:
        return read_cloud_txt(path, 6, delimiter=",", at_least=self.num_points, at_most=self.num_points)

    def smoke_data(self) -> "ModelNet40Txt":
        """Solids in the same format."""
        return replace(self, root=_miniature.modelnet_txt(), num_points=_miniature.POINTS)
