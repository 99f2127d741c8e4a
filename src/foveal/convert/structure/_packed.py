"""Tokens of several images one behind the other, ``(N, C)``, and an argument that says where each begins: every image by itself, as Qwen-VL's towers do.

Shapes     N tokens of all images, S images, L tokens of one, C width, D head width
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._arguments import Call

__all__ = ["in_pieces", "one_image", "split_otherwise"]


def one_image(call: Call) -> tuple[Call, str]:
    """The call with all its tokens in one image, and the argument that counts them: from 0 to their number. Its name is empty where there is none."""
    sizes = {size for value in call.tensors.values() for size in value.shape[:2]}
    for name, value in call.values.items():
        if not isinstance(value, Tensor) or value.ndim != 1 or len(value) < 2 or value.dtype not in (torch.int32, torch.int64):
            continue
        if int(value[0]) == 0 and int(value[-1]) in sizes and bool((value[1:] > value[:-1]).all()):
            return split_otherwise(call, name, [0, int(value[-1])]), name
    return call, ""


def split_otherwise(call: Call, name: str, ends: list[int]) -> Call:
    """The call with its tokens cut there."""
    value = call.values[name]
    return Call(call.names, call.defaults, call.values | {name: torch.tensor(ends, dtype=value.dtype, device=value.device)})


def in_pieces(
    tokens: Tensor, turn: tuple[Tensor, Tensor] | None, ends: Tensor, attend: Callable[[Tensor, Any], tuple[Tensor, Tensor | None]]
) -> tuple[Tensor, list[Tensor | None]]:
    """``(1, N, C)`` to the same, and a map an image.

    Args:
        tokens: of all images.
        turn: cosines and sines, ``(N, D)`` or ``(1, N, D)``, if any.
        ends: ``(S + 1,)``.
        attend: from ``(S, L, C)`` and cosines and sines to the same and to maps, ``(S, H, L, L)``.
    """
    if len(ends) == 2:
        out, made = attend(tokens, turn)
        return out, [made]
    # the host's own code asks for these numbers in every call, too: tensors are cut by numbers
    lengths = (ends[1:] - ends[:-1]).tolist()
    turns = None if turn is None else tuple(part.flatten(0, -2) for part in turn)
    if len(set(lengths)) == 1:
        shape = (len(lengths), lengths[0])
        out, made = attend(tokens[0].unflatten(0, shape), None if turns is None else tuple(part.unflatten(0, shape) for part in turns))
        return out.flatten(0, 1)[None], [None] * len(lengths) if made is None else list(made.split(1))
    outs, maps = [], []
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    for start, length in zip(starts, lengths, strict=True):
        piece = slice(start, start + length)
        out, made = attend(tokens[:, piece], None if turns is None else tuple(part[piece] for part in turns))
        outs.append(out)
        maps.append(made)
    return torch.cat(outs, dim=1), maps
