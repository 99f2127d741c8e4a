"""CIFAR-10's own files. Pickles can run code, so these are read by an unpickler that makes arrays, numbers, text, lists and dicts, and nothing else."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._errors import InputError

__all__ = ["Planes", "read_cifar10"]

_SIDE, _CLASSES = 32, 10
_BYTES = 3 * _SIDE**2
_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
"""What pickles of arrays name; ``_codecs.encode`` turns text to bytes."""
_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


@dataclass(frozen=True)
class Planes:
    """``images`` ``(n, 3, 32, 32)``, ``labels`` ``(n,)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a batch of images")
        return super().find_class(module, name)


def read_cifar10(root: Path) -> tuple[Planes, Planes, list[str]]:
    """The five training batches, the test batch, the names of classes.

    Raises:
        ValueError: a file is missing, damaged or foreign; the message names it.
    """
    for folder in (root, root / "cifar-10-batches-py", root / "cifar-10-batches-bin"):
        for ending, read in (("", _from_pickle), (".bin", _from_binary)):
            if (folder / f"{_BATCHES[0]}{ending}").is_file():
                train = [read(folder / f"{name}{ending}") for name in _BATCHES]
                whole = Planes(np.concatenate([part.images for part in train]), np.concatenate([part.labels for part in train]))
                return whole, read(folder / f"test_batch{ending}"), list(_NAMES)
    raise InputError(f"{root} has no data_batch_1 and no data_batch_1.bin; expected the folder cifar-10-batches-py or cifar-10-batches-bin, unpacked")


def _from_pickle(path: Path) -> Planes:
    try:
        with path.open("rb") as file:
            content = _Restricted(file, encoding="latin1").load()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; get CIFAR-10 anew") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is no batch of CIFAR-10: {said}; get it anew") from error
    values = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()} if isinstance(content, dict) else {}
    images, labels = values.get("data"), values.get("labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != _BYTES or not len(images):
        raise InputError(f"{path} is no batch of CIFAR-10: expected data of bytes, (n, {_BYTES}); get it anew")
    if not isinstance(labels, list) or len(labels) != len(images) or not all(type(label) is int and 0 <= label < _CLASSES for label in labels):
        raise InputError(f"{path} is no batch of CIFAR-10: expected {len(images)} labels from 0 to {_CLASSES - 1}; get it anew")
    return Planes(images.reshape(-1, 3, _SIDE, _SIDE), np.asarray(labels, np.int64))


def _from_binary(path: Path) -> Planes:
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; get CIFAR-10 anew") from error
    if not len(content) or len(content) % (1 + _BYTES):
        raise InputError(f"{path} is no batch of CIFAR-10: {len(content)} bytes are no whole number of images of {1 + _BYTES}; get it anew")
    rows = content.reshape(-1, 1 + _BYTES)
    if rows[:, 0].max() >= _CLASSES:
        raise InputError(f"{path} is no batch of CIFAR-10: image {int(rows[:, 0].argmax())} has the label {rows[:, 0].max()}; get it anew")
    return Planes(rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE).copy(), rows[:, 0].astype(np.int64))
