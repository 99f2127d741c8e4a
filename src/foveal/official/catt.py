"""Layers of yangxuntu/lxmertcatt.

Queries, keys and values are three layers there, one here. A cross-sample half of its own has the beginning ``FT``.
"""

from torch import Tensor, nn

from ._fuse import fuse_qkv
from ._registry import State, kind

__all__: list[str] = []


def _layer(dim: int, num_heads: int, dictionary_size: int, shared: bool) -> nn.Module:
    # not at the top: it needs timm, and Foveal alone does not
    from ..models.catt import CattLayer

    # the dictionary belongs to the network, not to the layer
    return CattLayer(dim, num_heads, share=shared)


@kind("catt.bert_layer", build=_layer)
def _translate(state: State, **settings: object) -> dict[str, Tensor]:
    own = {key: value for key, value in state.items() if not key.startswith("FT")}
    # the in-sample attention is called `self` where the two halves are apart, and `att` where they share
    inner = "self" if any(key.startswith("attention.self.") for key in own) else "att"
    out = _half(own, inner, "attn.", "attn.proj.", "own.")
    if cross := {key.removeprefix("FT"): value for key, value in state.items() if key.startswith("FT")}:
        out |= _half(cross, "att", "attn.cross_", "attn.cross_proj.", "cross.")
    return out


def _half(state: State, inner: str, qkv: str, proj: str, around: str) -> dict[str, Tensor]:
    """One half's weights: ``qkv`` is what our name of the fused layer begins with."""
    others = {
        "attention.output.dense.": proj,
        "attention.output.LayerNorm.": f"{around}norm1.",
        "intermediate.dense.": f"{around}mlp.fc1.",
        "output.dense.": f"{around}mlp.fc2.",
        "output.LayerNorm.": f"{around}norm2.",
    }
    layers = (f"attention.{inner}.query", f"attention.{inner}.key", f"attention.{inner}.value")
    return {qkv + key if key.startswith("qkv.") else key: value for key, value in fuse_qkv(state, layers, others).items()}
