"""Official blocks with three convolutions, for queries, keys and values, into ours with one."""

import torch
from torch import Tensor

from .._errors import InputError
from ._registry import State

__all__ = ["fuse_qkv"]


def fuse_qkv(state: State, qkv: tuple[str, str, str], others: dict[str, str]) -> dict[str, Tensor]:
    """Rename a state dict.

    Args:
        state: as the official code saves it.
        qkv: official names of the layers of queries, keys and values; they become ``qkv``, in this order.
        others: beginnings of all other official keys, and ours.

    Raises:
        ValueError: a key that belongs to none of them, or one of the three that is missing.
    """
    out, taken = {}, set()
    for field in ("weight", "bias"):
        keys = [f"{layer}.{field}" for layer in qkv]
        if missing := [key for key in keys if key not in state]:
            raise InputError(f"the official state dict lacks {', '.join(missing)}; it has {', '.join(state)}")
        out[f"qkv.{field}"] = torch.cat([state[key] for key in keys])
        taken.update(keys)
    for key, value in state.items():
        if key in taken:
            continue
        beginning = next((beginning for beginning in others if key.startswith(beginning)), None)
        if beginning is None:
            raise InputError(f"{key!r} is no key of this official attention; expected {', '.join((*qkv, *others))}")
        out[others[beginning] + key.removeprefix(beginning)] = value
    return out
