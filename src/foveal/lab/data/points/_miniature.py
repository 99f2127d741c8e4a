"""Miniatures of sets of clouds, in their own formats: solids, and of meshes boxes and pyramids. Files lie in the cache."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...._errors import missing_extra
from .._bundle import seed_of
from .._miniature import miniature
from .shapes import SOLIDS

__all__ = ["POINTS", "modelnet_h5", "modelnet_off", "modelnet_txt", "shapenet_h5", "shapenet_txt"]

POINTS = 64
"""Of a cloud."""
_KINDS = ("cube", "torus")
"""Of solids, in the place of classes."""
_EACH = {"train": 8, "val": 3, "test": 3}
"""Clouds of a class."""
_SHAPES = {"Airplane": ("02691156", 0, 4), "Table": ("04379243", 47, 3)}
"""Of ShapeNet-Part: the synset, the first part and how many there are."""


def _solids(split: str) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Class, number and points with normals ``(POINTS, 6)``, standing upright along y."""
    for label, kind in enumerate(_KINDS):
        for number in range(_EACH[split]):
            rng = np.random.default_rng(seed_of("miniature", split, kind, number))
            points, normals = SOLIDS[kind](rng, POINTS)
            stretch = rng.uniform(0.8, 1.2, 3)
            points, normals = points * stretch, normals / stretch
            points /= np.linalg.norm(points, axis=1).max()
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            yield label, number, np.concatenate([points, normals], 1)[:, [0, 2, 1, 3, 5, 4]].astype(np.float32)


def _h5(path: Path, **arrays: NDArray[Any]) -> None:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "points", "writing clouds as HDF5") from error
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")


def modelnet_h5() -> Path:
    """Two files to train with and one to test with."""

    def write(root: Path) -> None:
        (root / "shape_names.txt").write_text("\n".join(_KINDS) + "\n")
        for split, pieces in (("train", 2), ("test", 1)):
            labels, _, clouds = zip(*_solids(split), strict=True)
            names = [f"ply_data_{split}{piece}.h5" for piece in range(pieces)]
            (root / f"{split}_files.txt").write_text("".join(f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names))
            for piece, name in enumerate(names):
                some = np.stack(clouds[piece::pieces])
                _h5(root / name, data=some[..., :3], normal=some[..., 3:], label=np.array(labels[piece::pieces], "u1")[:, None])

    return miniature("modelnet-h5", write)


def modelnet_txt() -> Path:
    """Text files with a point a line."""

    def write(root: Path) -> None:
        (root / "modelnet40_shape_names.txt").write_text("\n".join(_KINDS) + "\n")
        for split, first in (("train", 1), ("test", 1 + _EACH["train"])):
            names = []
            for label, number, cloud in _solids(split):
                names.append(f"{_KINDS[label]}_{first + number:04}")
                path = root / _KINDS[label] / f"{names[-1]}.txt"
                path.parent.mkdir(exist_ok=True)
                np.savetxt(path, cloud, "%.6f", delimiter=",")
            (root / f"modelnet40_{split}.txt").write_text("\n".join(names) + "\n")

    return miniature("modelnet-txt", write)


_CUBE = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
_MESHES: dict[str, tuple[list[tuple[int, int, int]], list[tuple[int, ...]]]] = {
    "box": (_CUBE, [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]),
    "pyramid": ([*_CUBE[::2], (0, 0, 1)], [(0, 1, 3, 2), (0, 4, 1), (1, 4, 3), (3, 4, 2), (2, 4, 0)]),
}


def modelnet_off() -> Path:
    """Meshes of quadrangles and triangles; the counts of every second file are glued to its first word, as in parts of ModelNet40."""

    def write(root: Path) -> None:
        for kind, (corners, faces) in _MESHES.items():
            first = 1
            for split in ("train", "test"):
                (root / kind / split).mkdir(parents=True)
                for number in range(first, first + _EACH[split]):
                    stretch = np.random.default_rng(seed_of("miniature mesh", kind, number)).uniform(0.7, 1.3, 3)
                    lines = [f"OFF{'' if number % 2 else chr(10)}{len(corners)} {len(faces)} 0"]
                    lines += [" ".join(f"{value:.5f}" for value in np.array(corner) * stretch) for corner in corners]
                    lines += [" ".join(map(str, (len(face), *face))) for face in faces]
                    (root / kind / split / f"{kind}_{number:04}.off").write_text("\n".join(lines) + "\n")
                first += _EACH[split]

    return miniature("modelnet-off", write)


def _parted(split: str) -> Iterator[tuple[str, int, NDArray[Any], NDArray[np.int64]]]:
    """Name of the class, number, points with normals, and parts from below to above."""
    for label, number, cloud in _solids(split):
        name, (_, first, count) = list(_SHAPES.items())[label]
        order = np.argsort(np.argsort(cloud[:, 1]))
        yield name, number, cloud, first + order * count // POINTS


def shapenet_txt() -> Path:
    """Text files with a point and its part a line."""

    def write(root: Path) -> None:
        (root / "synsetoffset2category.txt").write_text("".join(f"{name}\t{synset}\n" for name, (synset, _, _) in _SHAPES.items()))
        (root / "train_test_split").mkdir()
        for split in _EACH:
            names = []
            for name, number, cloud, parts in _parted(split):
                synset = _SHAPES[name][0]
                names.append(f"shape_data/{synset}/{split}{number}")
                (root / synset).mkdir(exist_ok=True)
                np.savetxt(root / synset / f"{split}{number}.txt", np.column_stack([cloud, parts]), "%.6f")
            (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(names))

    return miniature("shapenet-part-txt", write)


def shapenet_h5() -> Path:
    """A file a split."""

    def write(root: Path) -> None:
        (root / "all_object_categories.txt").write_text("".join(f"{name}\t{synset}\n" for name, (synset, _, _) in _SHAPES.items()))
        for split in _EACH:
            names, _, clouds, parts = zip(*_parted(split), strict=True)
            (root / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")
            label = np.array([list(_SHAPES).index(name) for name in names], "u1")[:, None]
            _h5(root / f"ply_data_{split}0.h5", data=np.stack(clouds)[..., :3], label=label, pid=np.stack(parts).astype("u1"))

    return miniature("shapenet-part-h5", write)
