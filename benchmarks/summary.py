"""Efficient and linear attention: against PyTorch's attention of pairs on the same tensors, their growth with the number of tokens, their memory.

They do not compute what attention of pairs computes, so each is first shown to equal its own reference, for some queries and all keys.

At unequal widths PyTorch has no fast path on the CPU, which is most of the larger factor. Without gradients long inputs are read in pieces that stay in the
cache, so the output alone is asked of the system anew at every call. That costs time too once it is larger than 32 MB, where glibc gives it back at once; so
growth is given with and without such an allocator.
"""

import math
from collections.abc import Callable, Iterator
from statistics import linear_regression

import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.analysis import peak_memory
from foveal.functional import efficient_attention, efficient_attention_reference, linear_attention, linear_attention_reference

from ._harness import Row, check_equal, faster, memory_kept, paired_ratio

ATTENTIONS = {
    "efficient": (efficient_attention, efficient_attention_reference),
    "linear": (linear_attention, linear_attention_reference),
}
WIDTHS = ((32, 64), (64, 64))
LENGTHS = (4096, 16384, 65536, 262144)


def rows() -> Iterator[Row]:
    for name, (attention, reference) in ATTENTIONS.items():
        for widths in WIDTHS:
            q, k, v = _inputs(16384, *widths)
            few = q[..., :256, :]
            check_equal(_without_gradients(attention, few, k, v), _without_gradients(reference, few, k, v))
            yield faster(
                f"{name} / softmax attention of pairs (another function)",
                f"(1, 1, 16384), d_k {widths[0]}, d_v {widths[1]}",
                _without_gradients(attention, q, k, v),
                _without_gradients(F.scaled_dot_product_attention, q, k, v),
                100,
            )
        yield _growth(name, attention, "memory from the system", met=None)
        with memory_kept():
            yield _growth(name, attention, "memory kept by the allocator", met=0.15)
        extra = peak_memory(_long_sequence, name) / 1e6
        full = 65536**2 * 4 / 1e6
        yield Row(
            f"{name}, peak memory beyond input",
            "(1, 1, 65536), d_k 32, d_v 64",
            f"{extra:.0f} MB",
            f"{full:.0f} MB for the map",
            extra / full,
            "< 200 MB",
            extra < 200,
        )


def _growth(name: str, attention: Callable[..., Tensor], how: str, met: float | None) -> Row:
    calls = [_without_gradients(attention, *_inputs(length, *WIDTHS[0])) for length in LENGTHS]
    # against the shortest, in turn, so that a machine that slows down slows both
    ratios = [paired_ratio(call, calls[0]) for call in calls[1:]]
    # fitted to all lengths: the steps are not even, since the longer sequences leave the caches
    slope = linear_regression([math.log(length) for length in LENGTHS], [0.0, *(math.log(ratio) for _, _, ratio in ratios)]).slope
    return Row(
        f"{name}, exponent of time over tokens, {how}",
        f"(1, 1, {LENGTHS[0]:,} … {LENGTHS[-1]:,}), d_k 32, d_v 64",
        f"{1e3 * ratios[-1][0]:.0f} ms",
        f"{1e3 * ratios[-1][1]:.1f} ms",
        slope,
        "none" if met is None else f"1 ± {met}",
        met is None or abs(slope - 1) <= met,
    )


def _inputs(tokens: int, width: int, width_v: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1, 1, tokens, width), torch.randn(1, 1, tokens, width), torch.randn(1, 1, tokens, width_v)


def _without_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    return call


def _long_sequence(name: str) -> Callable[[], Tensor]:
    attention, (q, k, v) = ATTENTIONS[name][0], _inputs(65536, *WIDTHS[0])
    # libraries and thread pools are loaded by a short call, and are not the attention's
    _without_gradients(attention, *(part[..., :64, :] for part in (q, k, v)))()
    return _without_gradients(attention, q, k, v)
