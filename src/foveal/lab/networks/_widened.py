"""The network's own softmax attention with more heads and the function that it had: as many weights as what is put in, and nothing else of it."""

from typing import Any

from torch import nn

from ... import convert
from ..._errors import InputError
from ...convert import ConversionReport, Where

__all__ = ["WIDE", "widened_"]

WIDE = "softmax-wide"
"""What recipes call it, in the place of a registered attention."""


def widened_(model: nn.Module, *, num_heads: int, where: Where = "*") -> ConversionReport:
    """``foveal.widen_``, where this version has it.

    Raises:
        ValueError: it has not; as there.
    """
    widen: Any = getattr(convert, "widen_", None)
    if widen is None:
        raise InputError("this version of Foveal has no foveal.widen_, which the widened softmax needs; leave the controls out with --controls False")
    report: ConversionReport = widen(model, num_heads=num_heads, where=where)
    return report
