"""Somebody else's model, with our attention in it and their weights kept."""

from . import (  # noqa: F401  # each enters its hosts
    _clip,
    _diffusers,
    _own,
    _timm,
    _timm_class,
    _timm_halo,
    _timm_halo_2d,
    _timm_rope,
    _timm_sam,
    _timm_windows,
    _torch,
    _torchvision,
    _torchvision_maxvit,
    _torchvision_video,
    _transformers,
    _transformers_packed,
    _transformers_video,
    _ultralytics,
)
from ._convert import convert, convert_
from ._host import Place, find_host, host_key, known_hosts, register_host
from ._interface import register_attention_functions
from ._record import originals_of, places_of
from ._revert import revert_
from ._transfer import WarmStart
from ._where import Where, every_nth, global_only, last_stage, matcher
from .calibrate import CalibrationReport, LayerFit, calibrate_
from .delta import load_delta, save_delta
from .insert import insert_
from .report import ConversionReport, Left, Swap
from .widen import widen_

__all__ = [
    "CalibrationReport",
    "ConversionReport",
    "LayerFit",
    "Left",
    "Place",
    "Swap",
    "WarmStart",
    "Where",
    "calibrate_",
    "convert",
    "convert_",
    "every_nth",
    "find_host",
    "global_only",
    "host_key",
    "insert_",
    "known_hosts",
    "last_stage",
    "load_delta",
    "matcher",
    "originals_of",
    "places_of",
    "register_attention_functions",
    "register_host",
    "revert_",
    "save_delta",
    "widen_",
]
