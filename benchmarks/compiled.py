"""``torch.compile`` against eager: denoising attention, forward. That no model breaks its graph is for the tests to show.

``torch.compile`` keeps the library that is chosen for linear maps, so it is given the same as eager.
"""

from collections.abc import Iterator

import torch

from foveal import DenoisingAttention

from ._harness import Row, at_most, check_equal, inference


def rows() -> Iterator[Row]:
    for batch, tokens in ((8, 197), (1, 1025)):
        module, x = DenoisingAttention(768, 12, qkv_bias=True).eval(), torch.randn(batch, tokens, 768)
        compiled = torch.compile(module, fullgraph=True)
        check_equal(inference(compiled, x), inference(module, x))
        yield at_most("denoising, compiled / eager", f"({batch}, {tokens}, 768), 12 heads", inference(compiled, x), inference(module, x), 1.0)
