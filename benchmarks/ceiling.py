"""How much of the machine's float32 matrix-multiply rate denoising attention reaches, counting its multiply-adds and nothing else.

The product that is the ceiling takes turns with the layer, so that both see the same machine.

It reaches what PyTorch's fused float32 kernel lets it, the less the more tokens it has. Blocks as in bfloat16, through oneDNN, were tried in float32: they gain
less there, need an operator private to PyTorch, and lose where other processes take the cores, as every product waits for all threads; so the kernel stays.
"""

from collections.abc import Iterator

import torch

from foveal import DenoisingAttention
from foveal.bench.measure import fastest_product
from foveal.functional import softmax_attention_reference

from ._harness import Row, check_equal, inference, paired_ratio


def rows() -> Iterator[Row]:
    product, work = fastest_product(torch.float32, torch.device("cpu"))
    for tokens in (1025, 4097):
        module, x = DenoisingAttention(768, 12, qkv_bias=True).eval(), torch.randn(1, tokens, 768)
        plain = DenoisingAttention(768, 12, qkv_bias=True, core=softmax_attention_reference).eval()
        plain.load_state_dict(module.state_dict())
        check_equal(inference(module, x), inference(plain, x))
        macs = module.cost(tokens).macs
        seconds, ceiling, ratio = paired_ratio(inference(module, x), product)
        share = macs / work / ratio
        ours, theirs = (f"{rate / 1e9:.0f} G multiply-adds/s" for rate in (macs / seconds, work / ceiling))
        yield Row("denoising, of the fastest float32 product", f"(1, {tokens}, 768), 12 heads", ours, theirs, share, "≥ 0.85", share >= 0.85)
