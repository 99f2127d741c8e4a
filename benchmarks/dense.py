"""Blocks in large maps: external, efficient and linear attention against softmax attention, 512 channels, 128×128 pixels, one image.

They compute different functions, so each is first shown to equal its own formula at a small size. The softmax block is PyTorch's fused attention over the
16,384 pixels as tokens, one head as in a non-local block, with its projections and norm. Memory is held against the same block with its map of pixels by
pixels in memory, as it was before fused kernels: measured where that fits twice over, else grown from a quarter of the pixels, the part of the map as the
square of their number.

An efficient block of 512 channels has 25.8 G multiply-adds at 128 × 128 pixels, its own 512 × 512 map among them, and a softmax block 292: 11.3 times as many,
and a target of 20 is out of reach.
"""

import os
from collections.abc import Callable, Iterator

import torch
from einops import rearrange
from torch import Tensor, nn

from foveal.functional import efficient_attention_reference, external_attention_reference, linear_attention_reference
from foveal.lab.compare import cost_against_resolution
from foveal.lab.compare.resolution import MATERIALIZED
from foveal.models import make_feature_mixer

from ._harness import Row, check_equal, faster, inference

CHANNELS, SIDE = 512, 128
NAMES = ("external_2d", "efficient_2d", "linear_2d")
SETTING = f"(1, {CHANNELS}, {SIDE}, {SIDE})"


def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    x, small = torch.randn(1, CHANNELS, SIDE, SIDE), torch.randn(1, CHANNELS, 6, 7)
    softmax = inference(make_feature_mixer("softmax", CHANNELS).eval(), x)
    for name in NAMES:
        block = make_feature_mixer(name, CHANNELS).eval()
        if name == "linear_2d":
            # its gate starts at 0, and everything behind that would be equal
            nn.init.ones_(block.gamma)  # type: ignore[arg-type]
        check_equal(inference(block, small), lambda block=block, name=name: FORMULAS[name](block, small))  # type: ignore[misc]
        yield faster(f"{name} block / softmax block (another function)", SETTING, inference(block, x), softmax, 20)
    whole, how = _materialized()
    for point in cost_against_resolution(NAMES, (SIDE,), channels=CHANNELS):
        assert point.bytes is not None, f"{point.name} was not measured: {point.stopped}"
        ratio = point.bytes / whole
        what = f"{point.name} block, peak memory beyond weights and input / softmax block with its map in memory"
        yield Row(what, SETTING, f"{point.bytes / 1e6:.0f} MB", f"{whole / 1e6:.0f} MB {how}", ratio, "≤ 0.05 ×", ratio <= 0.05)


def _materialized() -> tuple[float, str]:
    """Peak bytes of a softmax block with its map in memory, and how they are known."""
    tokens = SIDE**2
    # the logits and their softmax, float32
    maps = 2 * 4 * tokens**2
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    side = SIDE if free > 2 * maps else SIDE // 2
    (point,) = cost_against_resolution((MATERIALIZED,), (side,), channels=CHANNELS, most_seconds=600)
    assert point.bytes is not None, f"{MATERIALIZED} was not measured: {point.stopped}"
    if side == SIDE:
        return point.bytes, "measured"
    part = 2 * 4 * side**4
    return maps + (point.bytes - part) * tokens / side**2, f"from {point.bytes / 1e6:.0f} MB measured at {side}×{side}"


def _tokens(x: Tensor) -> Tensor:
    return rearrange(x, "b c h w -> b 1 (h w) c")


def _maps(x: Tensor, like: Tensor) -> Tensor:
    return rearrange(x, "b 1 (h w) c -> b c h w", h=like.shape[-2])


@torch.no_grad()
def _external(block: nn.Module, x: Tensor) -> Tensor:
    memory = block.memory
    out = external_attention_reference(_tokens(block.conv1(x)), memory.memory_k, memory.memory_v)  # type: ignore[operator,union-attr,arg-type]
    return torch.relu(block.bn(block.conv2(_maps(out, x))) + x)  # type: ignore[operator]


@torch.no_grad()
def _efficient(block: nn.Module, x: Tensor) -> Tensor:
    q, k, v = block.qkv(x).split((block.key_channels, block.key_channels, block.value_channels), dim=1)  # type: ignore[operator]
    return x + block.proj(_maps(efficient_attention_reference(*map(_tokens, (q, k, v))), x))  # type: ignore[operator]


@torch.no_grad()
def _linear(block: nn.Module, x: Tensor) -> Tensor:
    q, k, v = block.qkv(x).split((block.key_channels, block.key_channels, block.value_channels), dim=1)  # type: ignore[operator]
    return x + block.gamma * _maps(linear_attention_reference(*map(_tokens, (q, k, v))), x)  # type: ignore[operator]


FORMULAS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {"external_2d": _external, "efficient_2d": _efficient, "linear_2d": _linear}
