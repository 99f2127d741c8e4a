"""Images with a class for every pixel."""

from ._bundle import IGNORE, SegmentationBundle
from .flag_swap import FlagSwap

__all__ = ["IGNORE", "FlagSwap", "SegmentationBundle"]
