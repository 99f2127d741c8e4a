"""Data: one file per kind of set, embedded real data first, folders beside it."""

from ._bundle import DataBundle, SceneMasks, Split, seed_of
from .cluttered import ClutteredDigits
from .digits import Digits, list_digit_sources, load_digits
from .folder import ImageFolder

__all__ = ["ClutteredDigits", "DataBundle", "Digits", "ImageFolder", "SceneMasks", "Split", "list_digit_sources", "load_digits", "seed_of"]
