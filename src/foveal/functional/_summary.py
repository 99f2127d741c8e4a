"""What the summary family shares: masks of keys, and reading positions piece by piece.

Shapes     B batch, H heads, Nk keys, D width
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .._errors import InputError
from ._masks import keys_that_take_part
from ._precision import wide_dtype

__all__ = ["check_chunk", "for_each_query", "key_count", "key_mask", "piece_size", "pieces", "scaled"]

_IN_CACHE = 2**17
"""Numbers in a piece that stays in the cache of a CPU. What is larger comes from memory at every step, and is asked of the system at every call."""
_FEWEST = 256
"""Positions in a piece, below which many small products cost more than they save."""


def scaled(x: Tensor, scale: float) -> Tensor:
    """``x · scale``. Where that is ``x``, one pass over memory less, of the few that these attentions make."""
    return x if scale == 1 else x * scale


def key_mask(what: str, mask: Tensor | None, k: Tensor, *, floats: bool) -> Tensor | None:
    """A mask of keys as a column beside ``k``, ``(B or 1, H or 1, Nk, 1)``.

    Raises:
        ValueError: a mask per query, of the wrong shape, or of a dtype that has no meaning here; floats other than 0 and -inf where they cannot be added.
    """
    if mask is None:
        return None
    if mask.dtype != torch.bool and not mask.is_floating_point():
        kinds = "float (added to the logits of the keys)" if floats else "float (0 takes part, -inf does not)"
        raise InputError(f"{what} expects a mask of keys in bool (True takes part) or {kinds}, got {mask.dtype}")
    full = (k.shape[0], k.shape[1], 1, k.shape[2])
    if not 2 <= mask.ndim <= 4 or any(got not in (1, want) for got, want in zip(mask.shape[::-1], full[::-1], strict=False)):
        raise InputError(
            f"{what} can leave out keys for all queries at once, by a mask broadcastable to (B, H, 1, Nk) = {full}, got {tuple(mask.shape)}; "
            "a mask per query has no meaning where all queries read one summary"
        )
    mask = mask if floats else keys_that_take_part(what, mask)
    mask = mask.expand(*mask.shape[:-1], k.shape[2]).transpose(-2, -1)
    return mask if mask.dtype == torch.bool else mask.to(wide_dtype(k))


def key_count(mask: Tensor | None, k: Tensor) -> Tensor | int:
    """How many keys take part, at least one so that it can divide: an int, or ``(B or 1, H or 1, 1, 1)``."""
    return max(k.shape[-2], 1) if mask is None else mask.sum(-2, keepdim=True).clamp_min(1)


def check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk must be at least 1 position, or None for all at once; got {chunk}")


def piece_size(chunk: int | None, x: Tensor) -> int | None:
    """``chunk``, where it is given. Else, on the CPU without gradients, as many positions of ``x`` as stay in the cache; all elsewhere."""
    if chunk is not None or torch.compiler.is_compiling() or torch.is_grad_enabled() or x.device.type != "cpu":
        return chunk
    fits = _IN_CACHE // max(1, x.numel() // max(1, x.shape[-2]))
    size = max(_FEWEST, fits)
    return None if size >= x.shape[-2] else size


def for_each_query(compute: Callable[[Tensor], Tensor], q: Tensor, chunk: int | None) -> Tensor:
    """``compute`` of the queries ``(B, H, Nq, D)``, ``chunk`` positions at a time, joined."""
    cuts = list(pieces(chunk, q.shape[-2]))
    if len(cuts) < 2:
        return compute(q)
    if torch.is_grad_enabled():
        return torch.cat([compute(q[..., at, :]) for at in cuts], dim=-2)
    first = compute(q[..., cuts[0], :])
    out = first.new_empty(*first.shape[:-2], q.shape[-2], first.shape[-1])
    out[..., cuts[0], :] = first
    for at in cuts[1:]:
        out[..., at, :] = compute(q[..., at, :])
    return out


def pieces(chunk: int | None, positions: int) -> Iterator[slice]:
    """Where to cut along positions, ``chunk`` at a time; not at all if None.

    Raises:
        ValueError: ``chunk`` below 1.
    """
    check_chunk(chunk)
    if chunk is None:
        yield slice(None)
        return
    for start in range(0, positions, chunk):
        yield slice(start, start + chunk)
