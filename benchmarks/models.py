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
    setting = f"batch 1, {SIDE} px, AdamW"
    yield _memory("DnA ViT-B, peak memory of a training step / timm's ViT-B", setting, False)
    yield _memory("the same, both with gradient checkpointing", setting, True)
    for batch, tokens in ((1, 197), (8, 197), (1, 785)):
        x = torch.randn(batch, tokens, 768)
        plain = DenoisingAttention(768, 12, qkv_bias=True).eval()
        fused = fuse_(copy.deepcopy(plain))
        check_equal(inference(fused, x), inference(plain, x))
        yield faster("denoising, fused against not fused", f"({batch}, {tokens}, 768), 12 heads", inference(fused, x), inference(plain, x), 1.0)


def _memory(what: str, setting: str, checkpointing: bool) -> Row:
    ours, theirs = (peak_memory(_step, name, checkpointing) / 1e6 for name in ("fov_dna_vit_base_patch16_224", "vit_base_patch16_224"))
    return Row(what, setting, f"{ours:.0f} MB", f"{theirs:.0f} MB", ours / theirs, "≤ 1.4 ×", ours <= 1.4 * theirs)


def _step(name: str, checkpointing: bool) -> Callable[[], Any]:
    # libraries and thread pools are loaded by a step of a miniature, and are not the network's
    _train(timm.create_model("test_fov_dna_vit", img_size=32), 32)

    def call() -> None:
        model = timm.create_model(name, img_size=SIDE)
        model.set_grad_checkpointing(checkpointing)
        _train(model, SIDE)

    return call


def _train(model: Any, side: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, side, side)).logsumexp(-1).sum().backward()
    optimizer.step()
