"""A number for the bits of a tensor, on whatever device it lies: to know what changed, and which base a file belongs to. No protection against intent."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .._errors import InputError

__all__ = ["digests", "fingerprint", "refuse_empty"]

_INTEGERS = {1: torch.uint8, 2: torch.int16}
_ODD = 0x4C957F2D
_PIECE = 2**20


def digests(state: Mapping[str, Any]) -> dict[str, int]:
    """One number for each tensor; another for other bits, another order, dtype or shape. What is no tensor has none.

    Raises:
        ValueError: tensors on the meta device, or that are more than numbers in a row: sparse, quantized, sharded.
    """
    refuse_empty(state)
    return {name: _digest(_plain(name, value)) for name, value in state.items() if isinstance(value, Tensor)}


def refuse_empty(state: Mapping[str, Any]) -> None:
    """Weights without values cannot be kept.

    Raises:
        ValueError: there are such.
    """
    if lazy := [name for name, value in state.items() if isinstance(value, Tensor) and is_lazy(value)]:
        raise InputError(f"{lazy[0]} belongs to a lazy layer, which has no size before the first batch; run the model on one first")
    if empty := [name for name, value in state.items() if isinstance(value, Tensor) and value.is_meta]:
        raise InputError(f"{len(empty)} weights are on the meta device, as {empty[0]}, and have no values to keep; load the model's weights first")


def _plain(name: str, value: Tensor) -> Tensor:
    value = value.detach()
    if is_traceable_wrapper_subclass(value) or value.is_quantized or value.layout is not torch.strided:
        raise InputError(f"{name} is a {type(value).__name__} of {value.dtype} ({value.layout}), no plain tensor; convert first, and quantize or shard then")
    # subclasses that only carry attributes are read as what they are
    return value.as_subclass(Tensor)


def fingerprint(values: Mapping[str, int]) -> str:
    """One for a whole state dict."""
    total = 0
    for name, digest in sorted(values.items()):
        total = (total * 31 + digest) % 2**64
        for letter in name.encode():
            total = (total * 257 + letter) % 2**64
    return f"{total:016x}"


def _digest(value: Tensor) -> int:
    total = 0
    for part in (*str(value.dtype).encode(), *value.shape):
        total = (total * 1000003 + part) % 2**64
    if not value.numel():
        return total
    flat = value.reshape(-1).contiguous()
    # as 32-bit integers where that comes out even: they are fast on every device
    even = flat.element_size() >= 4 or (flat.numel() * flat.element_size() % 4 == 0 and flat.storage_offset() * flat.element_size() % 4 == 0)
    bits = flat.view(torch.int32 if even else _INTEGERS[flat.element_size()]).to(torch.int32)
    for piece in bits.split(_PIECE):
        total = (total * 1000003 + int((piece * _factors(bits.device)[: piece.numel()]).sum())) % 2**64
    return total


@lru_cache(maxsize=4)
def _factors(device: torch.device) -> Tensor:
    """An odd number for each place: products wrap, and a change at one place cannot be lost."""
    return ((2 * torch.arange(_PIECE, device=device) + 1) * _ODD).to(torch.int32)
