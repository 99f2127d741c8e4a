"""External attention against its own two linear maps, and its growth with the number of tokens."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal import ExternalAttention2d
from foveal.functional import external_attention, external_attention_reference

from ._harness import Row, at_most, check_equal, inference, memory_kept, paired_ratio
from .dense import FORMULAS


def rows() -> Iterator[Row]:
    x, memory_k, memory_v = torch.randn(2, 1, 4096, 512), torch.randn(64, 512) / 512**0.5, torch.randn(64, 512)

    def ours() -> Tensor:
        with torch.no_grad():
            return external_attention(x, memory_k, memory_v)

    def reference() -> Tensor:
        return external_attention_reference(x, memory_k, memory_v)

    def bare() -> Tensor:
        with torch.no_grad():
            return F.linear(F.linear(x, memory_k), memory_v.mT)

    check_equal(ours, reference)
    yield at_most("external / its two linear maps without the normalization", "(2, 4096, 512), 64 slots", ours, bare, 1.15)

    yield _block()

    def bare_at(tokens: Tensor) -> Tensor:
        return F.linear(F.linear(tokens, memory_k), memory_v.mT)

    def ours_at(tokens: Tensor) -> Tensor:
        return external_attention(tokens, memory_k, memory_v)

    yield _slope("external, exponent of time over tokens", ours_at, ours, "≤ 1.1")
    yield _slope("its two linear maps, exponent of time over tokens", bare_at, ours, "bound")
    with memory_kept():
        # what 128 MB of output cost in pages that are faulted in is the allocator's
        yield _slope("external, exponent of time over tokens, memory kept by the allocator", ours_at, ours, "≤ 1.1")
        yield _slope("its two linear maps, exponent of time over tokens, memory kept by the allocator", bare_at, ours, "bound")


def _slope(what: str, function: Callable[[Tensor], Tensor], beside: Callable[[], Tensor], target: str) -> Row:
    """How time grows with the number of tokens."""
    lengths = [4096, 16384, 65536]
    seconds = []
    for length in lengths:
        tokens = torch.randn(1, 1, length, 512)

        def call(tokens: Tensor = tokens) -> Tensor:
            with torch.no_grad():
                return function(tokens)

        seconds.append(paired_ratio(call, beside)[0])
    slope = math.log(seconds[-1] / seconds[0]) / math.log(lengths[-1] / lengths[0])
    times = f"{1e3 * seconds[-1]:.0f} ms", f"{1e3 * seconds[0]:.1f} ms"
    return Row(what, "(1, 4,096 … 65,536, 512)", *times, slope, target, target == "bound" or slope <= 1.1)


def _block() -> Row:
    """The block on maps against what it has of linear maps; its normalization, batch norm, residual and ReLU are what may be added."""
    block = ExternalAttention2d(512).eval()
    maps, small = torch.randn(1, 512, 128, 128), torch.randn(1, 512, 6, 7)
    check_equal(inference(block, small), lambda: FORMULAS["external_2d"](block, small))
    memory_k, memory_v = block.memory.memory_k.detach(), block.memory.memory_v.detach().mT.contiguous()

    def bare() -> Tensor:
        with torch.no_grad():
            out = memory_v @ (memory_k @ block.conv1(maps).flatten(2))
            return block.conv2(out.view_as(maps))

    return at_most("external_2d block / its four linear maps", "(1, 512, 128, 128), 64 slots", inference(block, maps), bare, 1.2)
