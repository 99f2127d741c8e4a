"""The parts of the lane, in their order: the first say whether it is right, and what is left undone for want of time is the least asked for."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.layers.halo_attn import HaloAttn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer

import foveal
from foveal import official
from foveal.attention import TokenAttention, attention_class, list_attentions

from ._lane import Lane, Part

__all__ = ["PARTS"]

_PRECISIONS = ("float32", "bfloat16", "float16")
_NETWORKS = (
    "vit_base_patch16_224",
    "fov_dna_vit_base_patch16_224",
    "fov_dna_shared_vit_base_patch16_224",
    "fov_eamlp_14",
    "fov_halonet26t",
    "fov_t2t_vit_14_ea",
)
_AT_ONCE = 4
_SMALL = ("test_fov_dna_vit", "test_fov_eamlp", "test_fov_halonet")


def _mechanisms(lane: Lane, *, training: bool) -> None:
    """Every mechanism, in three precisions, first shown to give what it gives in float64 on the processor."""
    # processors are slow in float16
    precisions = _PRECISIONS if lane.device.type != "cpu" else _PRECISIONS[:2]
    names = tuple(name for name in list_attentions() if name not in ("cross_sample", "causal")) if not lane.smoke else ("denoising", "external", "halo_2d")
    sizes = ((197, 64), (1024, 8), (4096, 1)) if not lane.smoke else ((16, 2),)
    dim, heads = (768, 12) if not lane.smoke else (32, 4)
    for tokens, batch in sizes:
        # a grid has as many rows as columns
        for square in (False, True):
            group = tuple(name for name in names if issubclass(attention_class(name), TokenAttention) is not square and name != "halo")
            group += ("halo",) if square and "halo" in names else ()
            options: dict[str, Any] = {"tokens": (196 if square and tokens == 197 else tokens,), "dim": dim, "num_heads": heads, "batch": batch}
            # a few at once: the clock is looked at between them, and what float64 takes on the processor is most of the time
            for first in range(0, len(group), _AT_ONCE):
                lane.bench("training" if training else "forward", names=group[first : first + _AT_ONCE], precisions=precisions, training=training, **options)


def _networks(lane: Lane) -> None:
    """Published networks: images a second, forward and training, in bfloat16."""
    names, batch, pixels = (_NETWORKS, 32, 224) if not lane.smoke else (_SMALL, 1, 64)
    for training in (False, True):
        for name in names:
            lane.bench("networks", names=(name,), pixels=(pixels,), precisions=("bfloat16",), batch=batch, training=training)


def _compiled(lane: Lane) -> None:
    """``torch.compile`` beside eager."""
    names = ("softmax", "denoising", "external", "efficient", "linear") if not lane.smoke else ("external",)
    tokens, dim, heads, batch = (1024, 768, 12, 8) if not lane.smoke else (16, 32, 4, 1)
    for training in (False, True) if not lane.smoke else (False,):
        options: dict[str, Any] = {"tokens": (tokens,), "dim": dim, "num_heads": heads, "batch": batch, "training": training}
        for name in names:
            lane.bench("compiled", names=(name,), precisions=("bfloat16",), modes=("eager", "compiled"), **options)


class _Naive(nn.Module):
    """The formula of denoising attention as its paper prints it, with both maps in memory."""

    def __init__(self, ours: foveal.DenoisingAttention) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        maps = self.ours.attention_map(x)
        return maps["positive"] - maps["negative"]


def _rivals(lane: Lane) -> None:
    """Our modules beside the one that a user would take otherwise, which gives the same numbers where both compute the same."""
    for what, ours, theirs, x, same in _pairs(lane):
        lane.look_at_the_clock()
        with torch.no_grad():
            calls = [partial(module, x) for module in (ours, theirs)]
            error = float("nan")
            if same:
                got, want = (call().float() for call in calls)
                error = float((got - want).abs().max() / want.abs().max())
                if not error < 3e-2:
                    lane.wrong.append(f"{what}: the two differ by {error:.1e} relative")
                    continue
            a, b = _in_turns(*calls, rounds=1 if lane.smoke else 7)
        lane.add("rivals", what=what, ours_ms=1e3 * a, theirs_ms=1e3 * b, ratio=a / b, error=error)


def _pairs(lane: Lane) -> Iterator[tuple[str, nn.Module, nn.Module, Tensor, bool]]:
    batch, tokens, dim, heads, side = (16, 1024, 768, 12, 64) if not lane.smoke else (1, 16, 32, 4, 16)
    place: dict[str, Any] = {"device": lane.device, "dtype": torch.bfloat16}
    x = torch.randn(batch, tokens, dim, **place)
    softmax = foveal.create_attention("softmax", dim, heads, qkv_bias=True).to(**place).eval()
    timms = Attention(dim, heads, qkv_bias=True).to(**place).eval()
    timms.load_state_dict(softmax.state_dict())
    yield f"softmax / timm's Attention, ({batch}, {tokens}, {dim})", softmax, timms, x, True
    for shared in (False, True):
        ours = foveal.DenoisingAttention(dim, heads, qkv_bias=True, shared_values=shared).to(**place).eval()
        name = "denoising, shared values" if shared else "denoising"
        yield f"{name} / softmax by scaled_dot_product_attention, the same width", ours, softmax, x, False
        yield f"{name} / both maps in memory, which are a part of its work", ours, _Naive(ours), x, False
    heads, dim = (8, 256) if not lane.smoke else (2, 32)
    theirs = HaloAttn(dim, num_heads=heads, dim_head=16, block_size=8, halo_size=3).eval()
    mine = official.load("halo.timm", theirs.state_dict(), dim=dim, num_heads=heads, dim_head=16, block_size=8, halo_size=3)
    maps = torch.randn(batch, dim, side, side, **place)
    yield f"halo / timm's HaloAttn, {tuple(maps.shape)}", mine.to(**place).eval(), theirs.to(**place), maps, True


def _in_turns(*calls: Any, rounds: int) -> list[float]:
    timers = [Timer("call()", globals={"call": call}) for call in calls]
    for timer in timers:
        timer.timeit(1)
    seen = [[timer.timeit(3).mean for timer in timers] for _ in range(rounds)]
    return [sorted(column)[len(column) // 2] for column in zip(*seen, strict=True)]


def _picks(lane: Lane) -> None:
    """Which of PyTorch's fused kernels take what our mechanisms ask of them, and which is the fastest."""
    batch, tokens = (8, 1024) if not lane.smoke else (1, 16)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)[: 2 if lane.device.type == "cpu" else 3]:
        for wide, masked in ((64, False), (64, True), (128, False)):
            lane.look_at_the_clock()
            q, k = (torch.randn(batch, 12, tokens, 64, device=lane.device, dtype=dtype) for _ in range(2))
            v = torch.randn(batch, 12, tokens, wide, device=lane.device, dtype=dtype)
            mask = torch.zeros(batch, 1, 1, tokens, device=lane.device, dtype=dtype) if masked else None
            times: dict[str, float] = {}
            for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
                with sdpa_kernel(getattr(SDPBackend, name)):
                    try:
                        (times[name],) = _in_turns(partial(F.scaled_dot_product_attention, q, k, v, attn_mask=mask), rounds=1 if lane.smoke else 3)
                    except torch.OutOfMemoryError:
                        raise
                    except RuntimeError:
                        # a kernel that does not take these says so in this way alone, and is left out of what is reported
                        continue
            best = min(times, key=lambda name: times[name])
            asked = {"values": f"64 → {wide}", "mask": masked, "dtype": str(dtype).removeprefix("torch.")}
            lane.add("picks", **asked, best=best, milliseconds={name: round(1e3 * value, 3) for name, value in times.items()})


PARTS: dict[str, Part] = {
    "forward": partial(_mechanisms, training=False),
    "training": partial(_mechanisms, training=True),
    "rivals": _rivals,
    "picks": _picks,
    "networks": _networks,
    "compiled": _compiled,
}
