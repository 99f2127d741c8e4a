"""DnA ViT-B against timm's ViT-B, and against itself in its authors' formulation, one projection and maps in memory: inference and a training step.

What attention takes of the network's multiply-adds bounds what maps in memory can cost, and stands in the setting.

Of its multiply-adds the maps are 22 % at 448 pixels and 7 % at 224, so most of what DnA ViT-B gains on its authors' formulation there are linear maps.
"""

import copy
from collections.abc import Callable, Iterator

import timm
import torch
from torch import Tensor, nn

import foveal.timm  # noqa: F401  # registers fov_dna_vit
from foveal.analysis import cost

from ._harness import Row, at_most, check_equal, faster, inference
from .denoising import Materialized, plain


def rows() -> Iterator[Row]:
    for side, batch, forward, step in ((224, 2, 1.25, 1.3), (448, 1, 2.0, 1.8)):
        x = torch.randn(batch, 3, side, side)
        ours = timm.create_model("fov_dna_vit_base_patch16_224", img_size=side).eval()
        attended = sum(2 * block.attn.core.macs((side // 16) ** 2 + 1, 12) for block in ours.blocks) / cost(ours, (3, side, side)).macs
        setting = f"({batch}, 3, {side}, {side}), maps are {attended:.0%} of the multiply-adds"
        maps = copy.deepcopy(ours)
        for block in maps.blocks:
            block.attn, block.mlp = Materialized(block.attn), plain(block.mlp)
        check_equal(inference(ours, x), inference(maps, x))
        if side == 224:
            theirs = timm.create_model("vit_base_patch16_224").eval()
            ratio = cost(ours, (3, side, side)).macs / cost(theirs, (3, side, side)).macs
            yield at_most(
                f"DnA ViT-B / timm ViT-B ({ratio:.3f} × its multiply-adds)", setting, inference(ours, x), inference(theirs, x), round(1.03 * ratio, 3)
            )
        yield faster("DnA ViT-B, fused against maps in memory", setting, inference(ours, x), inference(maps, x), forward)
        yield faster("DnA ViT-B, training step, fused against maps in memory", setting, _step(ours, x), _step(maps, x), step)


def _step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def call() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return call
