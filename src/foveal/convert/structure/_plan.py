"""What was found of an attention, without its weights: enough to call one of ours as the host calls its own.

Shapes     B samples or windows, H heads, N tokens, C width, D head width
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._position import Table

__all__ = ["Plan", "as_tokens", "rotated", "turn_of"]

Rows = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Where queries, keys or values come from."""

    path: str
    """Of the linear map."""
    rows: Rows
    """Which of the map's outputs, head by head."""
    sources: tuple[str, ...]
    """Arguments of ``forward`` whose sum the map takes."""


@dataclass(frozen=True)
class Plan:
    """How a host's attention is called, and what it is made of."""

    names: tuple[str, ...]
    """Arguments of ``forward``, in order."""
    defaults: dict[str, Any]
    parts: tuple[Part, Part, Part]
    proj: str
    num_heads: int
    head_dim: int
    scale: float
    layout: str
    """Of the tokens: ``tokens`` (B, N, C), ``packed`` (N, C), ``rows`` (B, H, W, C) or ``map`` (B, C, H, W)."""
    norms: tuple[str, str] = ("", "")
    """Of queries and keys, by path."""
    mask: str = ""
    """The argument that is added to the logits, or leaves keys out."""
    rotary: str = ""
    """The argument that holds cosines and sines."""
    rotation: str = ""
    """``half`` or ``pairs``."""
    given: tuple[tuple[str, str, float], ...] = ()
    """Arguments that are added to the logits otherwise than as a mask of pairs, how they lie, and how often each is added."""
    table: Table | None = None
    """What the host's own bias of pairs is made from."""
    shifted: bool = False
    """Whether windows were given a mask each where the attention was read."""
    fixed: tuple[tuple[str, Any], ...] = ()
    """Arguments that may change the host's own bias, and what they were."""
    tokens: int = 0
    """How many there were."""
    causal_alone: bool = False
    """Whether tokens look at earlier ones alone where no mask is given, as PyTorch's kernel makes of a module that is told causal."""
    asks_apart: bool = False
    """Whether queries were made of other tokens than keys."""
    ends: str = ""
    """The argument that says where the tokens of one image end and those of the next begin."""
    returns: tuple[str, ...] | None = None
    """What comes back: ``out``, ``none`` or ``weights``; None for a tensor by itself."""
    harmless: tuple[str, ...] = field(default=())
    """Other arguments that were given and change nothing."""
    inlet: str = ""
    """The norm that the tokens go through before the maps, by path; empty where there is none."""
    softcap: float | None = None
    """Within what the host keeps its logits, before masks and biases."""
    drops: tuple[str, str] | None = None
    """The dropouts of the map and of the output, by paths; None where the host has none of its own and only says rates."""

    def called(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return self.defaults | dict(zip(self.names, args, strict=False)) | kwargs


def as_tokens(x: Tensor, layout: str) -> Tensor:
    """``(B, N, C)``."""
    if layout == "map":
        return x.flatten(2).transpose(1, 2)
    if layout == "packed":
        return x[None]
    return x.flatten(1, -2) if layout == "rows" else x


def like_tokens(x: Tensor, layout: str, like: Tensor) -> Tensor:
    """The other way round."""
    if layout == "map":
        return x.transpose(1, 2).unflatten(2, like.shape[2:])
    if layout == "packed":
        return x[0]
    return x.unflatten(1, like.shape[1:-1]) if layout == "rows" else x


def turn_of(value: Any) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines, of two tensors or of a complex one."""
    if isinstance(value, Tensor):
        # heads stand between tokens and width, where they are named at all
        value = value.flatten(0, -2) if value.ndim > 2 and value.shape[:-1].numel() == max(value.shape[:-1]) else value
        return value.real, value.imag
    return value if value is None else (value[0], value[1])


def rotated(x: Tensor, cos: Tensor, sin: Tensor, rotation: str) -> Tensor:
    """``(B, H, N, D)`` turned by positions ``(N', D)`` or ``(B, N', D)``, or by as many of half the width. The first N − N' tokens are not,
    nor what is wider than the positions are."""
    if 2 * cos.shape[-1] == x.shape[-1]:
        cos, sin = (torch.cat([part, part], dim=-1) if rotation == "half" else part.repeat_interleave(2, dim=-1) for part in (cos, sin))
    cos, sin = (part.to(x.dtype) if part.ndim == 2 else part.to(x.dtype)[:, None] for part in (cos, sin))
    first = x.shape[2] - cos.shape[-2]
    ahead, behind, rest = x[:, :, :first], x[:, :, first:, : cos.shape[-1]], x[:, :, first:, cos.shape[-1] :]
    if rotation == "half":
        half = behind.shape[-1] // 2
        other = torch.cat([-behind[..., half:], behind[..., :half]], dim=-1)
    else:
        other = torch.stack([-behind[..., 1::2], behind[..., ::2]], dim=-1).flatten(-2)
    turned = torch.cat([behind * cos + other * sin, rest], dim=-1) if rest.shape[-1] else behind * cos + other * sin
    return torch.cat([ahead, turned], dim=2) if first else turned
