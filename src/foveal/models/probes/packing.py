"""Samples of unequal length: one after the other in a row, as towers for any size hand them out, or side by side and padded, as attention takes them.

Shapes     S samples, N_s tokens of sample s, C channels, P probes a sample
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..._errors import InputError

__all__ = ["block_mask", "pack", "pad"]


def pad(packed: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``(sum N_s, C)`` to ``(S, max N_s, C)``, with zeros behind, and the mask ``(S, max N_s)`` that is True where a token is.

    Args:
        packed: the tokens of all samples in a row.
        lengths: N_s, each at least 1.

    Raises:
        ValueError: a sample without tokens, as a video without frames; lengths that do not add up to the row.

    Example:
        >>> tokens, mask = pad(torch.arange(6.0).view(3, 2), [1, 2])
        >>> tokens.shape, mask.tolist()
        (torch.Size([2, 2, 2]), [[True, False], [True, True]])
    """
    lengths = _checked(lengths)
    if packed.ndim != 2 or len(packed) != sum(lengths):
        raise InputError(f"expected {sum(lengths)} tokens in a row, (sum N, C), for samples of {lengths}, got {tuple(packed.shape)}")
    present = torch.arange(max(lengths), device=packed.device) < torch.tensor(lengths, device=packed.device)[:, None]
    return pad_sequence(packed.split(lengths), batch_first=True), present


def pack(padded: Tensor, mask: Tensor) -> Tensor:
    """The inverse of :func:`pad`: the tokens of all samples in a row, ``(sum N_s, C)``.

    Raises:
        ValueError: a mask of another form.
    """
    if mask.dtype != torch.bool or mask.shape != padded.shape[:2]:
        raise InputError(f"expected a bool mask (B, N) = {tuple(padded.shape[:2])}, got {mask.dtype} of {tuple(mask.shape)}")
    return padded[mask]


def block_mask(lengths: Sequence[int], num_probes: int, device: torch.device | str | None = None) -> Tensor:
    """Which token each probe may read where all samples lie in one row: ``(1, S·P, sum N_s)``, True for tokens of the probe's own sample.

    It costs S times what padding costs where samples are alike, and needs no copy.

    Raises:
        ValueError: a sample without tokens.

    Example:
        >>> block_mask([1, 2], num_probes=1).int().tolist()
        [[[1, 0, 0], [0, 1, 1]]]
    """
    lengths = _checked(lengths)
    samples = torch.arange(len(lengths), device=device)
    of_token = samples.repeat_interleave(torch.tensor(lengths, device=device), output_size=sum(lengths))
    return (samples.repeat_interleave(num_probes)[:, None] == of_token)[None]


def _checked(lengths: Sequence[int]) -> list[int]:
    lengths = [int(length) for length in lengths]
    if not lengths:
        raise InputError("expected at least one sample, got no lengths")
    if empty := [index for index, length in enumerate(lengths) if length < 1]:
        raise InputError(f"sample {empty[0]} has {lengths[empty[0]]} tokens, and probes have nothing to read in it: a video without frames? leave it out")
    return lengths
