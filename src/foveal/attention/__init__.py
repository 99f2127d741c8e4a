"""The modules: one attention a file, each with its ``Config``, its maps and its cost, and one registry of names."""

from typing import Any

from .._renamed import moved_member
from ._base import Cost, TokenAttention
from ._core import CORES, Core, register_core
from ._feature_map import FeatureMapAttention
from ._fuse import fuse_
from ._registry import FAMILIES, AttentionConfig, AttentionModule, attention_class, config_from_dict, create_attention, list_attentions, register
from .causal import CausalAttention, ComplementaryCBAM
from .cross_sample import CrossSampleAttention, CrossSamplePair
from .denoising import DenoisingAttention
from .dictionary import CrossSampleDictionary, fit_dictionaries_
from .differential import DifferentialAttention
from .efficient import EfficientAttention, EfficientAttention2d
from .external import ExternalAttention, ExternalAttention2d, ExternalMemory
from .halo import HaloAttention
from .halo_2d import HaloAttention2d, HaloPositions
from .linear import ChannelLinearAttention2d, LinearAttention, LinearAttention2d
from .softmax import SoftmaxAttention

__all__ = [
    "CORES",
    "FAMILIES",
    "AttentionConfig",
    "AttentionModule",
    "CausalAttention",
    "ChannelLinearAttention2d",
    "ComplementaryCBAM",
    "Core",
    "Cost",
    "CrossSampleAttention",
    "CrossSampleDictionary",
    "CrossSamplePair",
    "DenoisingAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "EfficientAttention2d",
    "ExternalAttention",
    "ExternalAttention2d",
    "ExternalMemory",
    "FeatureMapAttention",
    "HaloAttention",
    "HaloAttention2d",
    "HaloPositions",
    "LinearAttention",
    "LinearAttention2d",
    "SoftmaxAttention",
    "TokenAttention",
    "attention_class",
    "config_from_dict",
    "create_attention",
    "fit_dictionaries_",
    "fuse_",
    "list_attentions",
    "register",
    "register_core",
]

_OLD_NAMES = {"core": "register_core"}


def __getattr__(name: str) -> Any:
    return moved_member(__name__, name, _OLD_NAMES, globals())
