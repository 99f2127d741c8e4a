"""Rows of different length in one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["padded"]


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows ``(N, …)`` with zeros behind them, ``(B, max N, …)``, and a mask, 1 where something is, ``(B, max N)``."""
    lengths = torch.tensor([len(row) for row in rows])
    return pad_sequence(list(rows), batch_first=True), (torch.arange(int(lengths.max())) < lengths[:, None]).long()
