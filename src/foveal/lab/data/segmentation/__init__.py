"""Images with a class for every pixel."""

from ._bundle import IGNORE, SegmentationBundle
from .benchmarks import ADE20K, ISPRS, Cityscapes, PascalVOC
from .embedded import BrainSlabs, Nuclei, read_brain, read_nuclei
from .flag_swap import FlagSwap
from .folder import MaskFolder

__all__ = [
    "ADE20K",
    "IGNORE",
    "ISPRS",
    "BrainSlabs",
    "Cityscapes",
    "FlagSwap",
    "MaskFolder",
    "Nuclei",
    "PascalVOC",
    "SegmentationBundle",
    "read_brain",
    "read_nuclei",
]
