"""What people's checkpoints are wrapped in: trainers put weights under a name, wrappers put a name before theirs, counters leave numbers among them."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._errors import InputError

__all__ = ["unwrapped"]

_PREFIXES = ("module.", "_orig_mod.")
"""Of DataParallel and DistributedDataParallel, and of torch.compile."""
_COUNTED = ("total_ops", "total_params")
"""What thop writes into every module."""
_DEEPEST = 2
"""Wrappers in wrappers: ``{"checkpoint": {"model": weights}}``."""


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights alone, as tensors. What was taken off is said in a warning; where there are two things to take, nothing is.

    Raises:
        ValueError: no weights; several sets of them; something else among them.
    """
    if not isinstance(state_dict, Mapping):
        raise InputError(f"expected a state dict, names to tensors, got {type(state_dict).__name__}; for a module give module.state_dict()")
    said: list[str] = []
    weights = _inner(state_dict, said)
    others = {key: value for key, value in weights.items() if not isinstance(key, str) or not _is_value(value)}
    if others:
        key, value = next(iter(others.items()))
        raise InputError(
            f"a state dict has names of tensors alone, and this one has {len(others)} other entries, such as {key!r}: {type(value).__name__}; "
            "give {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}"
        )
    counted = {key for key, value in weights.items() if _is_count(key, value)}
    if counted:
        said.append(f"left out {len(counted)} numbers that thop wrote among the weights ({', '.join(_COUNTED)})")
        weights = {key: value for key, value in weights.items() if key not in counted}
    while prefix := next((prefix for prefix in _PREFIXES if weights and all(key.startswith(prefix) for key in weights)), None):
        said.append(f"took the prefix {prefix!r} off all names")
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    if said:
        warnings.warn(f"of this checkpoint Foveal {'; '.join(said)}", UserWarning, stacklevel=4)
    return {key: value if isinstance(value, Tensor) else _tensor(key, value) for key, value in weights.items()}


def _inner(given: Mapping[str, Any], said: list[str]) -> Mapping[str, Any]:
    """The one mapping in it that holds weights; itself, where it holds some."""
    found = dict(_candidates(given, ""))
    if not any(isinstance(value, Mapping) for value in given.values()):
        return given
    if not found:
        raise InputError(f"this checkpoint has {_listed(given)}, and none of them is a state dict; give the part that holds names and tensors")
    if len(found) > 1:
        raise InputError(
            f"this checkpoint holds {len(found)} sets of weights, {_listed(found)}, and only you can know which is meant; "
            f"give one of them, such as checkpoint{next(iter(found))}"
        )
    path, weights = next(iter(found.items()))
    said.append(f"read the weights under {path}, beside which there were {len(given) - 1} other entries")
    return weights


def _candidates(given: Mapping[str, Any], path: str, depth: int = 1) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in given.items():
        # an optimizer's state has tensors too, under numbers
        if not isinstance(value, Mapping) or not value or "param_groups" in value or not all(isinstance(name, str) for name in value):
            continue
        here = f"{path}[{key!r}]"
        if all(_is_value(part) for part in value.values()):
            yield here, value
        elif depth < _DEEPEST:
            yield from _candidates(value, here, depth + 1)


def _is_value(value: Any) -> bool:
    # NumPy is asked for only where somebody uses it
    return isinstance(value, Tensor) or type(value).__module__ == "numpy"


def _is_count(key: str, value: Any) -> bool:
    return key.rpartition(".")[2] in _COUNTED and (value.numel() if isinstance(value, Tensor) else value.size) == 1


def _tensor(key: str, value: Any) -> Tensor:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{key!r} is a NumPy array of {array.dtype}, which is no number that a weight could be")
    # in the machine's own order of bytes, and writable
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _listed(given: Mapping[str, Any]) -> str:
    return ", ".join(str(key) if str(key).startswith("[") else repr(key) for key in list(given)[:6]) + (" …" if len(given) > 6 else "")
