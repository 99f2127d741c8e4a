"""A network that was built to be looked at is handed to whoever builds it next in the same way, so that its weights are read once.

Building draws random numbers, which what comes behind it, such as a new head, must find where they would be: the state is handed over too, and a network is
taken only by one whose random numbers stand where they stood.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._sources import SOURCES

__all__ = ["built", "taken"]

Key = tuple[Any, ...]


@dataclass
class _Handed:
    key: Key
    before: Tensor
    after: Tensor
    model: nn.Module


_waiting: list[_Handed] = []
"""One at most: a network may be large."""


def built(library: str, name: str, weights: str, img_size: int, seed: int) -> nn.Module:
    """The network as the library gives it, to be read and not changed; it waits for the build of a run with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        before = torch.get_rng_state()
        model = SOURCES[library].build(name, weights, img_size)
        _waiting[:] = [_Handed(_key(library, name, weights, img_size), before, torch.get_rng_state(), model)]
    return model


def taken(library: str, name: str, weights: str, img_size: int) -> nn.Module | None:
    """The network that waits, if it is the one that would be built now; nobody else gets it then."""
    handed = _waiting[0] if _waiting else None
    if handed is None or handed.key != _key(library, name, weights, img_size) or not torch.equal(handed.before, torch.get_rng_state()):
        return None
    _waiting.clear()
    torch.set_rng_state(handed.after)
    return handed.model


def _key(library: str, name: str, weights: str, img_size: int) -> Key:
    # other contents of the same files are other weights
    files = [Path(weights), *(Path(name) / file for file in ("config.json", "model.safetensors"))]
    stamps = tuple((found.st_mtime_ns, found.st_size) for found in (file.stat() for file in files if file.is_file()))
    return library, name, weights, img_size, stamps
