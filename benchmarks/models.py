"""Whole networks: the memory of a training step, and what folding for inference saves."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch

import foveal.timm  # noqa: F401 (registers)
from foveal import DenoisingAttention, fuse_
from foveal.analysis import peak_memory

from ._harness import Row, check_equal, faster, inference

SIDE = 448


def rows() -> Iterator[Row]:
    yield _memory("DnA ViT-B / timm's ViT-B, peak memory of a training step with weights and AdamW's moments", _step)
    yield _memory("the same, forward and backward alone, beyond the weights", _passes)
    yield _memory("the same, with gradient checkpointing in both", _checkpointed)
    for batch, tokens in ((1, 197), (8, 197), (1, 785)):
        x = torch.randn(batch, tokens, 768)
        plain = DenoisingAttention(768, 12, qkv_bias=True).eval()
        fused = fuse_(copy.deepcopy(plain))
        check_equal(inference(fused, x), inference(plain, x))
        yield faster("denoising, fused against not fused", f"({batch}, {tokens}, 768), 12 heads", inference(fused, x), inference(plain, x), 1.0)


def _memory(what: str, prepare: Callable[[str], Callable[[], Any]]) -> Row:
    ours, theirs = (peak_memory(prepare, name) / 1e6 for name in ("fov_dna_vit_base_patch16_224", "vit_base_patch16_224"))
    return Row(what, f"batch 1, {SIDE} px", f"{ours:.0f} MB", f"{theirs:.0f} MB", ours / theirs, "≤ 1.4 ×", ours <= 1.4 * theirs)


def _step(name: str) -> Callable[[], Any]:
    _warm()

    def call() -> None:
        model: Any = timm.create_model(name, img_size=SIDE)
        optimizer = torch.optim.AdamW(model.parameters())
        _both_ways(model, SIDE)
        optimizer.step()

    return call


def _passes(name: str) -> Callable[[], Any]:
    _warm()
    model: Any = timm.create_model(name, img_size=SIDE)
    return lambda: _both_ways(model, SIDE)


def _checkpointed(name: str) -> Callable[[], Any]:
    _warm()
    model: Any = timm.create_model(name, img_size=SIDE)
    model.set_grad_checkpointing()
    return lambda: _both_ways(model, SIDE)


def _warm() -> None:
    """Libraries and thread pools are loaded by a miniature, and are not the network's."""
    model: Any = timm.create_model("test_fov_dna_vit")
    optimizer = torch.optim.AdamW(model.parameters())
    _both_ways(model, 32)
    optimizer.step()


def _both_ways(model: Any, side: int) -> None:
    model(torch.randn(1, 3, side, side)).logsumexp(-1).sum().backward()
