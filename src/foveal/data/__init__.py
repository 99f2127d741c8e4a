"""Data: one file per kind of set, embedded real data first, folders beside it."""

from ._bundle import DATA, Data, DataBundle, SceneMasks, Split, register_data, seed_of
from ._fetch import SOURCES, cache_folder, fetch
from .cluttered import ClutteredDigits
from .cutouts import Cutouts
from .detection import DetectionBundle, DigitScenes, FlagSwapBoxes, NucleiInstances, instances_of
from .digits import Digits, list_digit_sources, load_digits
from .folder import ImageFolder
from .segmentation import (
    ADE20K,
    IGNORE,
    ISPRS,
    BrainSlabs,
    Cityscapes,
    FlagSwap,
    MaskFolder,
    Nuclei,
    PascalVOC,
    SegmentationBundle,
    read_brain,
    read_nuclei,
)

__all__ = [
    "ADE20K",
    "DATA",
    "IGNORE",
    "ISPRS",
    "SOURCES",
    "BrainSlabs",
    "Cityscapes",
    "ClutteredDigits",
    "Cutouts",
    "Data",
    "DataBundle",
    "DetectionBundle",
    "DigitScenes",
    "Digits",
    "FlagSwap",
    "FlagSwapBoxes",
    "ImageFolder",
    "MaskFolder",
    "Nuclei",
    "NucleiInstances",
    "PascalVOC",
    "SceneMasks",
    "SegmentationBundle",
    "Split",
    "cache_folder",
    "fetch",
    "instances_of",
    "list_digit_sources",
    "load_digits",
    "read_brain",
    "read_nuclei",
    "register_data",
    "seed_of",
]
