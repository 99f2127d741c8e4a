"""Denoising attention against timm's fused softmax attention, and against itself with the maps in memory.

Denoising attention has 1.5 × the projections and 2 × the maps of softmax attention. Where it takes less than that ratio of multiply-adds, the reason is that
PyTorch sends float32 linear maps to a library that is slower on this processor than the one that does its convolutions, and we take the latter for large inputs
(``foveal/attention/_linear.py``), with gradients too, and in our own networks also for the maps between attentions. On one thread both go to the same library.
The same helps our softmax attention, as its lines show: it is no property of denoising.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from foveal import DenoisingAttention, SoftmaxAttention
from foveal.analysis import peak_memory

from ._harness import Row, at_most, check_equal, faster, inference


def rows() -> Iterator[Row]:
    for batch, tokens, against_timm, against_maps in ((8, 197, 1.40, 1.35), (1, 1025, None, 2.2), (1, 4097, 1.95, 2.8)):
        setting = f"({batch}, {tokens}, 768), 12 heads"
        x = torch.randn(batch, tokens, 768)
        ours = DenoisingAttention(768, 12, qkv_bias=True).eval()
        timm = Attention(768, 12, qkv_bias=True).eval()
        softmax = SoftmaxAttention(768, 12, qkv_bias=True).eval()
        softmax.load_state_dict(timm.state_dict())
        check_equal(inference(softmax, x), inference(timm, x))
        maps = Materialized(ours)
        check_equal(inference(ours, x), inference(maps, x))
        cost = ours.cost(tokens).macs / softmax.cost(tokens).macs
        if against_timm:
            yield at_most(f"denoising / timm's fused Attention ({cost:.2f} × its multiply-adds)", setting, inference(ours, x), inference(timm, x), against_timm)
        yield at_most("our softmax / timm's fused Attention", setting, inference(softmax, x), inference(timm, x), 1.05)
        yield faster("denoising, fused against maps in memory", setting, inference(ours, x), inference(maps, x), against_maps)
    extra = peak_memory(_long_sequence) / 1e6
    full = 2 * 3 * 16385**2 * 4 / 1e6
    yield Row(
        "denoising, peak memory beyond input and weights",
        "(1, 16385, 192), 3 heads",
        f"{extra:.0f} MB",
        f"{full:.0f} MB for the maps",
        extra / full,
        "< 250 MB",
        extra < 250,
    )


class Materialized(nn.Module):
    """The authors' formulation of a layer with plain linear maps: one projection to 5 C, both maps in memory. It has copies of the layer's weights."""

    def __init__(self, layer: DenoisingAttention) -> None:
        super().__init__()
        (q, k, v), (q_bias, k_bias, v_bias) = layer.qkv.weight.detach().chunk(3), layer.qkv.bias.detach().chunk(3)
        self.num_heads, self.scale = layer.num_heads, layer.head_dim**-0.5
        self.weight = nn.Parameter(torch.cat([q, layer.q_neg.weight.detach(), k, v, layer.v_neg.weight.detach()]))
        self.bias = nn.Parameter(torch.cat([q_bias, layer.q_neg.bias.detach(), k_bias, v_bias, layer.v_neg.bias.detach()]))
        self.proj, self.lambdas = copy.deepcopy(layer.proj), copy.deepcopy(layer.lambdas)

    def forward(self, x: Tensor, **nothing: Any) -> Tensor:
        assert all(value in (None, False) for value in nothing.values()), f"this one knows no masks, got {nothing}"
        batch, tokens, _ = x.shape
        q, q_neg, k, v, v_neg = torch.nn.functional.linear(x, self.weight, self.bias).view(batch, tokens, 5, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        positive = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        negative = (-(q_neg @ k.transpose(-2, -1) * self.scale)).softmax(-1)
        out = positive @ v - self.lambdas.view(1, -1, 1, 1) * (negative @ v_neg)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


def plain(mlp: nn.Module) -> nn.Module:
    """timm's, which calls its linear maps as they are, with copies of the weights."""
    other = Mlp(mlp.fc1.in_features, mlp.fc1.out_features, bias=mlp.fc1.bias is not None)
    other.load_state_dict(mlp.state_dict())
    return other


def _long_sequence() -> Callable[[], Any]:
    module, x = DenoisingAttention(192, 3).eval(), torch.randn(1, 16385, 192)
    # libraries and thread pools are loaded by a short call, and are not the attention's
    inference(module, x[:, :64])()
    return inference(module, x)
