"""Foveal: visual attention as correct, fast, interchangeable parts."""

from . import analysis, functional, official
from ._errors import InputError
from .attention import (
    AttentionConfig,
    ChannelLinearAttention2d,
    DenoisingAttention,
    DifferentialAttention,
    EfficientAttention,
    EfficientAttention2d,
    ExternalAttention,
    ExternalAttention2d,
    HaloAttention,
    HaloAttention2d,
    LinearAttention,
    LinearAttention2d,
    SoftmaxAttention,
    create_attention,
    list_attentions,
)

__version__ = "0.1.0"

__all__ = [
    "AttentionConfig",
    "ChannelLinearAttention2d",
    "DenoisingAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "EfficientAttention2d",
    "ExternalAttention",
    "ExternalAttention2d",
    "HaloAttention",
    "HaloAttention2d",
    "InputError",
    "LinearAttention",
    "LinearAttention2d",
    "SoftmaxAttention",
    "__version__",
    "analysis",
    "create_attention",
    "functional",
    "list_attentions",
    "official",
]
