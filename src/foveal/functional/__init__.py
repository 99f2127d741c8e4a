"""The mathematics: pure functions on ``(B, H, N, D)``, one file per mechanism, a slow readable reference beside each fast path."""

from .causal import causal_attention, causal_attention_maps, causal_attention_reference
from .centered import centered_attention, centered_attention_maps, centered_attention_reference
from .cross_sample import cross_sample_attention, cross_sample_attention_maps, cross_sample_attention_reference
from .denoising import denoising_attention, denoising_attention_maps, denoising_attention_reference
from .differential import differential_attention, differential_attention_maps, differential_attention_reference
from .efficient import efficient_attention, efficient_attention_map, efficient_attention_reference
from .external import external_attention, external_attention_map, external_attention_reference, external_token_map
from .halo import halo_attention, halo_attention_map, halo_attention_reference
from .linear import (
    channel_linear_attention,
    channel_linear_attention_map,
    channel_linear_attention_reference,
    linear_attention,
    linear_attention_map,
    linear_attention_reference,
)
from .pair import signed_pair, signed_pair_maps
from .softmax import softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = [
    "causal_attention",
    "causal_attention_maps",
    "causal_attention_reference",
    "centered_attention",
    "centered_attention_maps",
    "centered_attention_reference",
    "channel_linear_attention",
    "channel_linear_attention_map",
    "channel_linear_attention_reference",
    "cross_sample_attention",
    "cross_sample_attention_maps",
    "cross_sample_attention_reference",
    "denoising_attention",
    "denoising_attention_maps",
    "denoising_attention_reference",
    "differential_attention",
    "differential_attention_maps",
    "differential_attention_reference",
    "efficient_attention",
    "efficient_attention_map",
    "efficient_attention_reference",
    "external_attention",
    "external_attention_map",
    "external_attention_reference",
    "external_token_map",
    "halo_attention",
    "halo_attention_map",
    "halo_attention_reference",
    "linear_attention",
    "linear_attention_map",
    "linear_attention_reference",
    "signed_pair",
    "signed_pair_maps",
    "softmax_attention",
    "softmax_attention_map",
    "softmax_attention_reference",
]
