"""Forty lines of a user: options, conversion, the way back, maps and training. `make lint` checks their types strictly, `make package` runs them."""

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import foveal
from foveal.attention import AttentionModule


class Block(nn.Module):
    def __init__(self, dim: int, attention: AttentionModule) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = attention

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(self.norm(x))


def build(name: str, dim: int) -> AttentionModule:
    return foveal.create_attention(name, dim=dim, num_heads=2)


configs: list[foveal.AttentionConfig] = [foveal.DenoisingAttention.Config(shared_values=True), foveal.ExternalAttention.Config(slots=8)]
configs.append(foveal.HaloAttention.Config(block_size=2, halo_size=1))
layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
report = foveal.convert_(layer, configs[0], warm_start="exact")
assert_type(report, foveal.ConversionReport)
lines: list[str] = [f"{swap.name}: {swap.output}" for swap in report.swaps]
foveal.save_delta(layer, Path("delta.safetensors"))
foveal.revert_(layer)
block = Block(16, configs[1].build(16, num_heads=2))
x = torch.randn(1, 9, 16)
maps: dict[str, Tensor] = block.attn.attention_map(x)
whole: dict[str, dict[str, Tensor]] = foveal.attention_maps(block, x)
copy = foveal.convert(layer, foveal.SoftmaxAttention.Config())
groups = foveal.param_groups(block, weight_decay=0.05)
optimizer = torch.optim.AdamW(groups, lr=1e-3)
macs: int = build("efficient", 16).cost(9).macs
print(lines, len(maps), len(whole), macs, foveal.list_attentions(family="memory"))
