"""The mathematics: pure functions on ``(B, H, N, D)``, one file per mechanism, a slow readable reference beside each fast path."""

from .denoising import denoising_attention, denoising_attention_maps, denoising_attention_reference
from .differential import differential_attention, differential_attention_maps, differential_attention_reference
from .external import external_attention, external_attention_map, external_attention_reference, external_token_map
from .softmax import softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = [
    "denoising_attention",
    "denoising_attention_maps",
    "denoising_attention_reference",
    "differential_attention",
    "differential_attention_maps",
    "differential_attention_reference",
    "external_attention",
    "external_attention_map",
    "external_attention_reference",
    "external_token_map",
    "softmax_attention",
    "softmax_attention_map",
    "softmax_attention_reference",
]
