"""Halo attention against timm's HaloAttn and, where it is installed (``pip install --no-deps halonet-pytorch``), halonet-pytorch, with their own weights.

Times of the small maps hang on what the process allocated before.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from foveal import official

from ._harness import Row, check_equal, faster, inference

SIZES = [((4, 256, 32, 32), 2.5, 1.3), ((1, 256, 128, 128), 2.0, 2.0)]
WINDOW = {"block_size": 8, "halo_size": 3}
RIVALS = {
    "timm HaloAttn": ("timm.layers.halo_attn", "HaloAttn", "halo.timm", {"dim": 256, "dim_out": 128, "num_heads": 8} | WINDOW),
    "timm HaloAttn, values 32 wide": ("timm.layers.halo_attn", "HaloAttn", "halo.timm", {"dim": 256, "dim_head": 16, "num_heads": 8} | WINDOW),
    "halonet-pytorch": ("halonet_pytorch", "HaloAttention", "halo.masked", {"dim": 256, "dim_head": 16, "heads": 8} | WINDOW),
}


def training(module: nn.Module, x: Tensor) -> Callable[[], None]:
    x = x.clone().requires_grad_()

    def call() -> None:
        module.zero_grad()
        x.grad = None
        module(x).sum().backward()

    return call


def rows() -> Iterator[Row]:
    for name, (package, cls, kind, options) in RIVALS.items():
        if find_spec(package) is None:
            continue
        theirs = getattr(import_module(package), cls)(**options).eval()
        ours = official.load(kind, theirs.state_dict(), **options)
        for size, forward, both in SIZES:
            x = torch.randn(size)
            check_equal(inference(ours, x), inference(theirs, x))
            yield faster(f"halo, forward / {name}", f"{size}, 8 heads × 16", inference(ours, x), inference(theirs, x), forward)
            yield faster(f"halo, forward and backward / {name}", f"{size}, 8 heads × 16", training(ours, x), training(theirs, x), both)
