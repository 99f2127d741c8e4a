"""bfloat16 on the CPU against float32, and our blocks against PyTorch's fused kernel: denoising attention, forward."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from foveal import DenoisingAttention
from foveal.functional import softmax_attention

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
        q, k, v = torch.randn(3, batch, 12, tokens, 64).bfloat16()

        def blocks(q=q, k=k, v=v):
            with torch.no_grad():
                return softmax_attention(q, k, v)

        def fused(q=q, k=k, v=v):
            with torch.no_grad():
                return F.scaled_dot_product_attention(q, k, v)

        check_equal(blocks, fused, tolerance=6e-2)
        yield faster("softmax core in bfloat16: our blocks / PyTorch's fused kernel", f"({batch}, 12, {tokens}, 64)", blocks, fused, 1.0)
