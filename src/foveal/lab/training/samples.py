"""What each test sample scored, kept with the run: runs can be compared sample by sample, and an interval can include which samples the test has."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from ..._errors import InputError
from ..._weights import read_weights
from .checkpoint import write_weights
from .reading import Damaged

__all__ = ["SAMPLES", "SampleScores", "read_samples"]

SAMPLES = "samples.safetensors"
"""In the folder of a run: ``scores``, the headline of each test sample, and ``keys``, which sample it was, both ``(N,)``."""
_MOST_VALUES = 4096
"""Of a sample, spread over it, that its key is made of: two samples that agree in all of them are one."""


class SampleScores:
    """Collects the headline of each sample of a split, batch by batch."""

    def __init__(self) -> None:
        self._batches: dict[int, tuple[Tensor, Tensor]] = {}
        self._none = False

    def add(self, number: int, scores: Tensor | None, inputs: Any) -> None:
        """A batch by its number, with what went into the network."""
        if scores is None or self._none:
            self._none = True
            return
        self._batches[number] = (scores.detach().float().cpu(), torch.tensor([_key(row) for row in _rows(inputs, len(scores))], dtype=torch.int64))

    def gather(self) -> None:
        """Put together what several processes counted."""
        self._none = any(gather_object([self._none]))
        self._batches = dict(sorted(gather_object(list(self._batches.items()))))

    def write(self, run: Path) -> None:
        """Leave ``samples.safetensors`` in the run's folder, where every sample of the split has a score."""
        if self._none or not self._batches:
            return
        scores, keys = (torch.cat(parts) for parts in zip(*(self._batches[number] for number in sorted(self._batches)), strict=True))
        write_weights(run / SAMPLES, {"scores": scores, "keys": keys})


def read_samples(run: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Scores and keys of a run's test samples; None of one that has none, by its task or by its age.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / SAMPLES
    if not path.exists():
        return None
    remedy = f"remove {run}, and the same command trains it again"
    try:
        found = read_weights(path)
    except InputError as error:
        raise Damaged(f"{error}; {remedy}") from error
    scores, keys = found.get("scores"), found.get("keys")
    if scores is None or keys is None or scores.ndim != 1 or scores.shape != keys.shape or not len(scores) or keys.dtype != torch.int64:
        raise Damaged(f"{path} is damaged: expected scores and keys, one a test sample; {remedy}")
    return scores.double().numpy(), keys.numpy()


def _rows(inputs: Any, count: int) -> list[Any]:
    """The samples of a batch of inputs, which may be a tensor, a list with one of each, or a tuple or mapping of tensors."""
    if isinstance(inputs, Mapping):
        # in the order of their names, whatever that of the set is
        return _rows(tuple(inputs[name] for name in sorted(inputs)), count)
    if isinstance(inputs, tuple):
        return list(zip(*(_rows(part, count) for part in inputs), strict=True))
    assert len(inputs) == count, f"{count} scores of {len(inputs)} samples"
    return list(inputs)


def _key(sample: Any) -> int:
    """The same number for the same sample in every run and process."""
    digest = hashlib.blake2b(digest_size=8)
    for part in sample if isinstance(sample, tuple) else (sample,):
        values = part.detach().cpu().float().flatten()
        stride = -(-len(values) // _MOST_VALUES) or 1
        digest.update(values[::stride].contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)
