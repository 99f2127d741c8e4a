"""The vision model of rjccv/DnA ``viscop/``: VideoLLaMA 3's tower, whose layers probes read.

Its names are those of transformers' ``VideoLlama3VisionModel``, with ``encoder.visual_probes`` and ``encoder.interaction_modules.{k}`` beside the layers.
In a whole language model they stand under ``model.vision_encoder.vision_encoder.``, in a file of adapters under ``base_model.model.`` before that: give the
names that begin so, which is taken off.

Module k holds the weights that are read at the k-th of the chosen layers.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import InputError, missing_extra, unknown
from ._registry import State, kind
from .dna import Sign, read_attention

__all__ = ["ProbedTower"]

_MODULE = re.compile(r"encoder\.interaction_modules\.(\d+)\.(.+)")
_PREFIXES = ("base_model.model.", "model.", "vision_encoder.", "vision_encoder.")
_PLAIN = ("q_proj", "k_proj", "v_proj")


class ProbedTower(nn.Module):
    """VideoLLaMA 3's vision tower, frozen, and the probes that read it."""

    def __init__(self, tower: nn.Module, probes: nn.Module) -> None:
        super().__init__()
        self.tower, self.probes = tower.requires_grad_(False), probes

    def forward(self, pixel_values: Tensor, grid_thw: Tensor, merge_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Merged tokens behind the last norm, and probes.

        Args:
            pixel_values: patches of all samples in a row, those of a frame in merge order, ``(sum N, 3·p²)``.
            grid_thw: frames, rows and columns of each sample, ``(S, 3)``.
            merge_sizes: m of each sample, ``(S,)``: m × m patches become a token.

        Returns:
            ``(sum N / m², C)`` and ``(S · P, C)``.
        """
        # not at the top: it needs timm, and Foveal alone does not
        from ..models.probes import pad

        out = self.tower(pixel_values, grid_thw, merge_sizes, output_hidden_states=True)
        padded = [pad(hidden, grid_thw.prod(dim=1).tolist()) for hidden in out.hidden_states[1:]]
        return out.last_hidden_state, self.probes([hidden for hidden, _ in padded], padded[0][1]).flatten(0, 1)


def _build(
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    patch_size: int,
    sign: Sign,
    num_channels: int = 3,
    num_probes: int = 16,
    layers: Sequence[int] | None = None,
    attention: str = "denoising",
) -> nn.Module:
    if attention not in ("denoising", "softmax"):
        raise unknown("attention of official probes", attention, ("denoising", "softmax"))
    # not at the top: neither is needed by Foveal alone
    try:
        from transformers.models.video_llama_3 import VideoLlama3VisionConfig, VideoLlama3VisionModel
    except ImportError as error:
        raise missing_extra("transformers", "hf", "the official kind dna.visual_probes") from error
    from ..models.probes import VisualProbes

    config = VideoLlama3VisionConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        patch_size=patch_size,
        num_channels=num_channels,
    )
    tower = VideoLlama3VisionModel._from_config(config, attn_implementation="sdpa")
    chosen = range(num_hidden_layers) if layers is None else layers
    probes = VisualProbes(hidden_size, num_attention_heads, chosen, num_probes, attention, "published", depth=num_hidden_layers)
    return ProbedTower(tower, probes)


@kind("dna.visual_probes", build=_build)
def _translate(state: State, *, sign: Sign, **settings: Any) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    out: dict[str, Tensor] = {}
    modules: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := _MODULE.fullmatch(key):
            modules.setdefault(match[1], {})[match[2]] = value
        elif key == "encoder.visual_probes":
            out["probes.probes"] = value
        else:
            out[f"tower.{key}"] = value
    for index, module in modules.items():
        read = _read_plain(module) if "q_proj.weight" in module else read_attention(module, sign)
        out |= {f"probes.attentions.{index}.{key}": value for key, value in read.items()}
    return out


def _read_plain(module: State) -> dict[str, Tensor]:
    known = {f"{layer}.{field}" for layer in (*_PLAIN, "out_proj") for field in ("weight", "bias")}
    if set(module) != known:
        raise InputError(f"a plain interaction module has {', '.join(sorted(known))}; got {', '.join(sorted(module))}")
    joined = {f"qkv.{field}": torch.cat([module[f"{layer}.{field}"] for layer in _PLAIN]) for field in ("weight", "bias")}
    return {**joined, "proj.weight": module["out_proj.weight"], "proj.bias": module["out_proj.bias"]}
