"""The modules: one attention a file, each with its ``Config``, its maps and its cost, and one registry of names."""

from ._base import Cost, TokenAttention
from ._registry import AttentionConfig, attention_class, config_from_dict, create_attention, list_attentions, register
from .denoising import DenoisingAttention
from .differential import DifferentialAttention
from .external import ExternalAttention, ExternalAttention2d, ExternalMemory
from .softmax import SoftmaxAttention

__all__ = [
    "AttentionConfig",
    "Cost",
    "DenoisingAttention",
    "DifferentialAttention",
    "ExternalAttention",
    "ExternalAttention2d",
    "ExternalMemory",
    "SoftmaxAttention",
    "TokenAttention",
    "attention_class",
    "config_from_dict",
    "create_attention",
    "list_attentions",
    "register",
]
