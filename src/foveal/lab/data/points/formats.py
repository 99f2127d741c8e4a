"""Files of clouds and meshes: OFF, OBJ, text with a point a line, and ModelNet40's HDF5. What cannot be used is refused with the file's name.

Shapes     N points, C channels, V vertices, F triangles, n clouds
"""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError, missing_extra

__all__ = ["read_cloud_txt", "read_clouds_h5", "read_obj", "read_off", "read_parts_h5", "sample_surface"]

Floats = NDArray[np.float64]
_FARTHEST = 1e18
"""Coordinates whose squares float32 still holds; text and meshes are brought to a radius of 1 before."""


def read_off(path: Path) -> tuple[Floats, NDArray[np.int64]]:
    """Vertices ``(V, 3)`` and triangles ``(F, 3)``; polygons become fans of triangles. The counts may be glued to the first word, as in parts of ModelNet40.

    Raises:
        ValueError: no OFF file, fewer lines than it counts, faces of vertices that are not there, or coordinates that are not finite.
    """
    lines = [line for raw in _text(path).splitlines() if (line := raw.partition("#")[0].strip())]
    if not lines or not lines[0].startswith("OFF"):
        raise InputError(f"{path} is no OFF file: its first word is not OFF")
    lines = ([lines[0][3:]] if lines[0][3:].strip() else []) + lines[1:]
    try:
        count, faces = (int(word) for word in lines[0].split()[:2])
        if min(count, faces) < 0 or len(lines) < 1 + count + faces:
            raise InputError(f"{path} counts {count} vertices and {faces} faces, but has {len(lines) - 1} lines of them; it may be cut off")
        vertices = np.array([line.split()[:3] for line in lines[1 : 1 + count]], np.float64).reshape(count, 3)
        triangles = []
        for line in lines[1 + count : 1 + count + faces]:
            corners = [int(word) for word in line.split()[: 1 + int(line.split()[0])]]
            if len(corners) != corners[0] + 1:
                raise InputError(f"{path} has a face of {corners[0]} corners that names {len(corners) - 1}: {line!r}")
            triangles += [(corners[1], b, c) for b, c in pairwise(corners[2:])]
    except InputError:
        raise
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is no OFF file of numbers: {error}") from error
    made = np.array(triangles, np.int64).reshape(-1, 3)
    if not np.isfinite(vertices).all():
        raise InputError(f"{path} has vertices that are not finite")
    if made.size and not 0 <= made.min() <= made.max() < count:
        raise InputError(f"{path} has faces of vertices {made.min()} to {made.max()}, and {count} vertices, counted from 0")
    return vertices, made


_AFTER_SLASH = re.compile(rb"/\S*")


def read_obj(text: bytes, path: Path) -> tuple[Floats, NDArray[np.int64]]:
    """Vertices ``(V, 3)`` and triangles ``(F, 3)`` of an OBJ file; polygons become fans of triangles. Its normals, materials and groups are not looked at.

    Args:
        text: its bytes, which may come out of an archive.
        path: for messages.

    Raises:
        ValueError: lines that hold no numbers, faces of vertices that are not there, or coordinates that are not finite.
    """
    lines = text.replace(b"\\\n", b" ").splitlines()
    try:
        places = [line.split()[1:4] for line in lines if line.startswith(b"v ")]
        vertices = np.array(places, dtype=np.float64).reshape(len(places), 3)
        # 3/1/4 is a vertex, its texture and its normal
        faces = [_AFTER_SLASH.sub(b"", line[2:]).split() for line in lines if line.startswith(b"f ")]
        corners = np.array([corner for face in faces for corner in face], dtype=np.int64)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} is no OBJ file of numbers: {error}") from error
    sizes = np.array([len(face) for face in faces], np.int64)
    # counted from 1, or backwards from the end
    corners = np.where(corners < 0, corners + len(vertices), corners - 1)
    if not np.isfinite(vertices).all():
        raise InputError(f"{path} has vertices that are not finite")
    if corners.size and not 0 <= corners.min() <= corners.max() < len(vertices):
        raise InputError(f"{path} has faces of vertices that are not among its {len(vertices)}")
    starts = np.cumsum(sizes) - sizes
    fans = np.maximum(sizes - 2, 0)
    face = np.repeat(np.arange(len(sizes)), fans)
    within = np.arange(fans.sum()) - np.repeat(np.cumsum(fans) - fans, fans)
    return vertices, np.stack([corners[starts[face]], corners[starts[face] + within + 1], corners[starts[face] + within + 2]], 1)


def sample_surface(vertices: Floats, triangles: NDArray[np.int64], n: int, rng: np.random.Generator, *, path: Path) -> Floats:
    """Points on a mesh, evenly by area, each with the normal of its triangle: ``(n, 6)``.

    Raises:
        ValueError: the mesh has no area; ``path`` is named.
    """
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    with np.errstate(over="ignore", invalid="ignore"):
        normals = np.cross(b - a, c - a)
        areas = np.linalg.norm(normals, axis=1)
    if not np.isfinite(areas).all():
        raise InputError(f"{path} reaches so far (to {np.abs(vertices).max():.0e}) that areas of its triangles are no numbers; scale it down")
    if not areas.sum() > 0:
        raise InputError(f"{path} is a mesh without area ({len(triangles)} triangles): no points can be drawn on it; leave the file out")
    chosen = rng.choice(len(areas), n, p=areas / areas.sum())
    # even in a triangle: the root makes up for its width, which grows with the distance from a corner
    out, along = np.sqrt(rng.random((n, 1))), rng.random((n, 1))
    points = (1 - out) * a[chosen] + out * (1 - along) * b[chosen] + out * along * c[chosen]
    return np.column_stack([points, normals[chosen] / areas[chosen, None]])


def read_cloud_txt(path: Path, columns: int, *, delimiter: str | None = None, at_least: int = 1, at_most: int | None = None) -> NDArray[np.float32]:
    """Points ``(N, columns)`` of a text file with a point a line.

    Args:
        path: of the file.
        columns: that each line must have.
        delimiter: ``,`` in ModelNet40; blanks if None, as in ShapeNet-Part.
        at_least: points that are needed.
        at_most: points that are read, the first ones; all if None.

    Raises:
        ValueError: it cannot be read; another number of columns, too few points, or a number that is not finite.
    """
    try:
        text = _text(path).splitlines()[:at_most]
        cloud = np.loadtxt(text, np.float32, delimiter=delimiter, ndmin=2) if any(line.strip() for line in text) else np.empty((0, columns), np.float32)
    except ValueError as error:
        raise InputError(f"{path} does not hold a point a line: {error}") from error
    if cloud.shape[1] != columns:
        raise InputError(f"{path} has {cloud.shape[1]} columns, expected {columns}")
    return _checked(cloud, path, at_least)


def read_clouds_h5(path: Path, *, normals: bool = False, at_least: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clouds ``(n, N, 3)``, or ``(n, N, 6)`` with normals, and labels ``(n,)`` of a file with ``data``, ``label`` and, where wanted, ``normal``.

    Raises:
        MissingExtra: h5py is not installed.
        ValueError: no HDF5 file, parts missing or of other shapes, too few points, or a number that is not finite.
    """
    names = ("data", *(("normal",) if normals else ()))
    clouds, label, _ = _of_h5(path, names, None, at_least)
    return clouds, label


def read_parts_h5(path: Path, *, at_least: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Clouds ``(n, N, 3)``, their classes ``(n,)`` and the part of each point, ``(n, N)``, of a file with ``data``, ``label`` and ``pid``.

    Raises:
        MissingExtra: h5py is not installed.
        ValueError: as of :func:`read_clouds_h5`.
    """
    clouds, label, parts = _of_h5(path, ("data",), "pid", at_least)
    assert parts is not None, "it was asked for"
    return clouds, label, parts


def _of_h5(path: Path, names: tuple[str, ...], parts: str | None, at_least: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64] | None]:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "points", "reading clouds from HDF5") from error
    wanted = (*names, "label", *(() if parts is None else (parts,)))
    try:
        with h5py.File(path) as file:
            if missing := [name for name in wanted if name not in file]:
                raise InputError(f"{path} has no {', '.join(missing)}; it has {', '.join(sorted(file)) or 'nothing'}")
            found = {name: np.asarray(file[name]) for name in wanted}
    except InputError:
        raise
    except Exception as error:
        # of a damaged file the library raises what it comes upon: OSError, RuntimeError, KeyError, and of types that NumPy has not TypeError; on several lines
        raise InputError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())[:300]}; get it anew, or take it out of the set") from error
    for name, part in found.items():
        if part.dtype.kind not in "fiu":
            raise InputError(f"{path} has {name} of {part.dtype}, expected numbers")
        if name in ("label", parts) and not np.equal(np.floor(part), np.where(np.isfinite(part), part, np.nan)).all():
            raise InputError(f"{path} has numbers in {name} that are not whole; get it anew")
    label, clouds = found["label"].reshape(-1), [found[name] for name in names]
    if any(part.ndim != 3 or part.shape != (len(label), clouds[0].shape[1], 3) for part in clouds):
        raise InputError(f"{path} has {', '.join(f'{name} {found[name].shape}' for name in names)} and {len(label)} labels; expected (n, N, 3) and n")
    by_point = None
    if parts is not None:
        by_point = found[parts]
        if by_point.shape != clouds[0].shape[:2]:
            raise InputError(f"{path} has {parts} {by_point.shape} and clouds {clouds[0].shape}; expected a label for each point")
        by_point = by_point.astype(np.int64)
    with np.errstate(over="ignore"):
        cloud = _checked(np.concatenate(clouds, -1).astype(np.float32), path, at_least)
    places = cloud[..., :3]
    if places.size and np.abs(places).max() > _FARTHEST:
        raise InputError(f"{path} has points farther than {_FARTHEST:.0e} from the origin, whose distances float32 does not hold; mend or leave out the file")
    if cloud.shape[1] > 1 and (one := (places == places[:, :1]).all((1, 2))).any():
        raise InputError(f"{path} has all points of cloud {int(one.argmax())} in one place; leave the cloud out")
    return cloud, label.astype(np.int64), by_point


def _text(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; get it anew, or take it out of the set") from error


def _checked(cloud: NDArray[np.float32], path: Path, at_least: int) -> NDArray[np.float32]:
    if cloud.shape[-2] < at_least:
        raise InputError(f"{path} has {cloud.shape[-2]} points in a cloud, and {at_least} are needed; ask for fewer points, or leave the file out")
    if not np.isfinite(cloud).all():
        raise InputError(f"{path} has points that are not finite; mend or leave out the file")
    return cloud
