"""Foveal: visual attention as correct, fast, interchangeable parts."""

from . import functional
from ._errors import InputError
from .attention import (
    AttentionConfig,
    DenoisingAttention,
    DifferentialAttention,
    ExternalAttention,
    ExternalAttention2d,
    SoftmaxAttention,
    create_attention,
    list_attentions,
)

__version__ = "0.1.0"

__all__ = [
    "AttentionConfig",
    "DenoisingAttention",
    "DifferentialAttention",
    "ExternalAttention",
    "ExternalAttention2d",
    "InputError",
    "SoftmaxAttention",
    "__version__",
    "create_attention",
    "functional",
    "list_attentions",
]
