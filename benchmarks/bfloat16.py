"""bfloat16 on the CPU against float32: denoising attention, forward."""

from collections.abc import Iterator

import torch

from foveal import DenoisingAttention

from ._harness import Row, check_equal, faster, inference


def rows() -> Iterator[Row]:
    for batch, tokens in ((8, 197), (1, 1025), (1, 4097)):
        setting = f"({batch}, {tokens}, 768), 12 heads"
        x = torch.randn(batch, tokens, 768)
        module = DenoisingAttention(768, 12, qkv_bias=True).eval()
        half = DenoisingAttention(768, 12, qkv_bias=True).eval().bfloat16()
        half.load_state_dict(module.state_dict())
        ours, theirs = inference(half, x.bfloat16()), inference(module, x)
        check_equal(lambda ours=ours: ours().float(), theirs, tolerance=6e-2)
        yield faster("denoising, bfloat16 / float32", setting, ours, theirs, 1.5)
