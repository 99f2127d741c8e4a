"""How much of the machine's float32 matrix-multiply rate denoising attention reaches, counting its multiply-adds and nothing else.

The product that is the ceiling takes turns with the layer, so that both see the same machine.

It reaches what PyTorch's fused float32 kernel lets it, the less the more tokens it has. The lines of the roofline time that kernel alone, on the tensors that
the layer gives it, and hold the layer against what it would take with that kernel as it is and with all other products at the ceiling. Blocks as in bfloat16,
through oneDNN, were tried in float32: they gain less there, need an operator private to PyTorch, and lose where other processes take the cores, as every
product waits for all threads; so the kernel stays.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foveal import DenoisingAttention
from foveal.bench.measure import fastest_product
from foveal.functional import softmax_attention_reference

from ._harness import Row, check_equal, inference, paired_ratio


def rows() -> Iterator[Row]:
    product, work = fastest_product(torch.float32, torch.device("cpu"))
    for tokens in (1025, 4097):
        size = f"(1, {tokens}, 768), 12 heads"
        module, x = DenoisingAttention(768, 12, qkv_bias=True).eval(), torch.randn(1, tokens, 768)
        plain = DenoisingAttention(768, 12, qkv_bias=True, core=softmax_attention_reference).eval()
        plain.load_state_dict(module.state_dict())
        check_equal(inference(module, x), inference(plain, x))
        macs = module.cost(tokens).macs
        seconds, ceiling, ratio = paired_ratio(inference(module, x), product)
        share = macs / work / ratio
        ours, theirs = (f"{rate / 1e9:.0f} G multiply-adds/s" for rate in (macs / seconds, work / ceiling))
        yield Row("denoising, of the fastest float32 product", size, ours, theirs, share, "≥ 0.85", share >= 0.85)
        calls = _Kernel.calls_of(inference(module, x))

        def kernel(calls: list[partial[Tensor]] = calls) -> None:
            with torch.no_grad():
                for call in calls:
                    call()

        inside = sum(q.shape[:-1].numel() * k.size(-2) * (q.size(-1) + v.size(-1)) for q, k, v in (call.args[:3] for call in calls))
        alone, ceiling, ratio = paired_ratio(kernel, product)
        share = inside / work / ratio
        ours, theirs = (f"{rate / 1e9:.0f} G multiply-adds/s" for rate in (inside / alone, work / ceiling))
        yield Row("roofline: the fused kernel alone, of the fastest float32 product", size, ours, theirs, share, "bound", True)
        seconds, alone, ratio = paired_ratio(inference(module, x), kernel)
        least = alone + (macs - inside) / work * ceiling
        share = least / seconds
        ours, theirs = f"{1e3 * seconds:.1f} ms", f"{1e3 * least:.1f} ms"
        yield Row("roofline: denoising, of that kernel and products at the ceiling", size, ours, theirs, share, "≥ 0.85", share >= 0.85)


class _Kernel(TorchFunctionMode):
    """Keeps every call of PyTorch's fused attention, with its tensors as they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[partial[Tensor]] = []

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            self.calls.append(partial(function, *args, **(kwargs or {})))
        return function(*args, **(kwargs or {}))

    @classmethod
    def calls_of(cls, run: Callable[[], object]) -> list[partial[Tensor]]:
        with cls() as seen:
            run()
        if not seen.calls:
            raise SystemExit("the layer does not go through PyTorch's fused attention: there is no roofline of it")
        return seen.calls
