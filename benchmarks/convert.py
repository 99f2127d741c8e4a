"""Converting a whole vision transformer: seconds, memory beside the model, and the converted model's forward pass against its analytic cost.

``memory beside the model`` counts the growth of the process's peak, Python and all.
"""

import resource
import time
from collections.abc import Iterator

import torch
from torch import nn

import foveal

from ._harness import Row, check_equal, inference, paired_ratio

SIDE = 224
CONFIGS: list[foveal.attention.AttentionConfig] = [foveal.SoftmaxAttention.Config(), foveal.DenoisingAttention.Config(), foveal.ExternalAttention.Config()]


def _host(name: str = "vit_base_patch16_224") -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(name).eval()


def _macs(model: nn.Module) -> int:
    """Multiply-adds of one image, counted where fused kernels are not hidden: on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return counter.get_total_flops() // 2


def _peak() -> int:
    """Most memory that the process has held, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rows() -> Iterator[Row]:
    images = torch.randn(2, 3, SIDE, SIDE)
    # what a first conversion loads and keeps is not of this model
    for config in CONFIGS:
        foveal.convert_(_host("test_vit"), config)
    for config in CONFIGS:
        host, model = _host(), _host()
        before, start = _peak(), time.perf_counter()
        report = foveal.convert_(model, config, warm_start="exact" if config.attention in ("softmax", "denoising", "cross_sample") else None)
        seconds, grown = time.perf_counter() - start, _peak() - before
        name = f"vit_base_patch16_224, softmax → {config.attention}"
        yield Row("conversion", name, f"{seconds:.2f} s", "2 s", seconds / 2, "≤ 1", seconds <= 2)
        # what is new has to be somewhere; beside it there may be one module more
        new = sum(p.numel() * p.element_size() for p in model.parameters()) - sum(p.numel() * p.element_size() for p in host.parameters())
        one = max(sum(p.numel() * p.element_size() for p in model.get_submodule(swap.name).parameters()) for swap in report.swaps)
        beside = max(0, grown - max(0, new))
        yield Row("memory beside the model", name, f"{beside / 2**20:.1f} MiB", f"{one / 2**20:.1f} MiB", beside / one, "≤ 1.2 modules", beside <= 1.2 * one)
        if all(swap.output == "identical" for swap in report.swaps):
            check_equal(inference(model, images), inference(host, images))
        ours, theirs, ratio = paired_ratio(inference(model, images), inference(host, images))
        analytic = _macs(model) / _macs(host)
        times = f"≤ {analytic:.2f} (multiply-adds) + 10 %"
        yield Row("forward of the converted model", name, f"{1e3 * ours:.1f} ms", f"{1e3 * theirs:.1f} ms", ratio, times, ratio <= 1.1 * analytic)
