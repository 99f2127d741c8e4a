"""EAMLP-14 against the same network in the authors' formulation of external attention: softmax over tokens, then a division over slots."""

import copy
from collections.abc import Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

import foveal.timm  # noqa: F401  # registers fov_eamlp
from foveal import ExternalAttention

from ._harness import Row, check_equal, faster, inference
from .denoising import plain


def rows() -> Iterator[Row]:
    ours = timm.create_model("fov_eamlp_14").eval()
    theirs = copy.deepcopy(ours)
    for name, module in list(theirs.named_modules()):
        if isinstance(module, ExternalAttention):
            parent, _, child = name.rpartition(".")
            setattr(theirs.get_submodule(parent), child, Divided(module))
        elif isinstance(module, Mlp):
            parent, _, child = name.rpartition(".")
            setattr(theirs.get_submodule(parent), child, plain(module))
    for batch in (1, 8):
        x = torch.randn(batch, 3, 224, 224)
        check_equal(inference(ours, x), inference(theirs, x))
        yield faster("EAMLP-14, throughput / with the authors' two divisions", f"({batch}, 3, 224, 224)", inference(ours, x), inference(theirs, x), 1.2)


class Divided(nn.Module):
    """The authors' formulation of a layer, with plain linear maps and copies of the layer's weights."""

    def __init__(self, layer: ExternalAttention) -> None:
        super().__init__()
        memory = layer.memory
        self.num_heads, self.q, self.proj = layer.num_heads, copy.deepcopy(layer.q), copy.deepcopy(layer.proj)
        assert memory.memory_v is not None, "the network's memories are two"
        self.memory_k, self.memory_v = copy.deepcopy(memory.memory_k), nn.Parameter(memory.memory_v.detach().mT.contiguous())
        self.bias_k, self.bias_v = copy.deepcopy(memory.bias_k), copy.deepcopy(memory.bias_v)

    def forward(self, x: Tensor, **nothing: Any) -> Tensor:
        assert all(value in (None, False) for value in nothing.values()), f"this one knows no masks, got {nothing}"
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        attention = F.linear(q, self.memory_k, self.bias_k).softmax(dim=-2)
        attention = attention / (1e-9 + attention.sum(dim=-1, keepdim=True))
        return self.proj(F.linear(attention, self.memory_v, self.bias_v).transpose(1, 2).flatten(2))
