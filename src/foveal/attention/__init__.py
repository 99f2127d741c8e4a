"""The modules: one attention a file, each with its ``Config``, its maps and its cost, and one registry of names."""

from ._base import Cost, TokenAttention
from ._registry import FAMILIES, AttentionConfig, attention_class, config_from_dict, create_attention, list_attentions, register
from .denoising import DenoisingAttention
from .differential import DifferentialAttention
from .efficient import EfficientAttention, EfficientAttention2d
from .external import ExternalAttention, ExternalAttention2d, ExternalMemory
from .halo import HaloAttention, HaloAttention2d, HaloPositions
from .linear import ChannelLinearAttention2d, LinearAttention, LinearAttention2d
from .softmax import SoftmaxAttention

__all__ = [
    "FAMILIES",
    "AttentionConfig",
    "ChannelLinearAttention2d",
    "Cost",
    "DenoisingAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "EfficientAttention2d",
    "ExternalAttention",
    "ExternalAttention2d",
    "ExternalMemory",
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
    "list_attentions",
    "register",
]
