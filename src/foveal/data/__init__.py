"""Data: one file per kind of set, embedded real data first, folders beside it."""

from ._bundle import DATA, Data, DataBundle, SceneMasks, Split, register_data, seed_of
from .cluttered import ClutteredDigits
from .digits import Digits, list_digit_sources, load_digits
from .folder import ImageFolder
from .segmentation import IGNORE, FlagSwap, SegmentationBundle

__all__ = [
    "DATA",
    "IGNORE",
    "ClutteredDigits",
    "Data",
    "DataBundle",
    "Digits",
    "FlagSwap",
    "ImageFolder",
    "SceneMasks",
    "SegmentationBundle",
    "Split",
    "list_digit_sources",
    "load_digits",
    "register_data",
    "seed_of",
]
