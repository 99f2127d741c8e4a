"""Somebody else's model, with our attention in it and their weights kept."""

from . import _timm, _torch, _transformers  # noqa: F401  # each enters its hosts, by name: none of the three libraries is imported
from ._convert import Where, convert, convert_, every_nth, last_stage, matcher, originals_of, places_of, revert_
from ._host import Place, find_host, host_key, known_hosts, register_host
from ._transfer import WarmStart
from .calibrate import CalibrationReport, LayerFit, calibrate_
from .delta import load_delta, save_delta
from .report import ConversionReport, Swap

__all__ = [
    "CalibrationReport",
    "ConversionReport",
    "LayerFit",
    "Place",
    "Swap",
    "WarmStart",
    "Where",
    "calibrate_",
    "convert",
    "convert_",
    "every_nth",
    "find_host",
    "host_key",
    "known_hosts",
    "last_stage",
    "load_delta",
    "matcher",
    "originals_of",
    "places_of",
    "register_host",
    "revert_",
    "save_delta",
]
