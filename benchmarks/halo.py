"""Halo attention against timm's HaloAttn and halonet-pytorch: same weights, same output, then times as ratios (theirs / ours), interleaved.

    python benchmarks/halo.py [--threads 2] [--rounds 15]

halonet-pytorch is optional: ``pip install --no-deps halonet-pytorch``.
"""

import argparse
import importlib
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from foveal import official

SIZES = [(4, 256, 32, 32), (1, 256, 128, 128)]
WINDOW = {"block_size": 8, "halo_size": 3}
RIVALS = {
    "timm, values 16 wide": ("timm.layers.halo_attn", "HaloAttn", "halo.timm", {"dim": 256, "dim_out": 128, "num_heads": 8} | WINDOW),
    "timm, values 32 wide": ("timm.layers.halo_attn", "HaloAttn", "halo.timm", {"dim": 256, "dim_head": 16, "num_heads": 8} | WINDOW),
    "halonet-pytorch": ("halonet_pytorch", "HaloAttention", "halo.masked", {"dim": 256, "dim_head": 16, "heads": 8} | WINDOW),
}


def forward(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor) -> None:
    module.zero_grad()
    module(x.detach().requires_grad_()).sum().backward()


def seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    for name, (package, cls, kind, options) in RIVALS.items():
        try:
            theirs = getattr(importlib.import_module(package), cls)(**options).eval()
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error}")
            continue
        ours = official.load(kind, theirs.state_dict(), **options)
        for size in SIZES:
            x = torch.randn(size)
            with torch.no_grad():
                torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
            for work in (forward, forward_backward):
                work(theirs, x)
                work(ours, x)
                times = [(seconds(lambda: work(theirs, x)), seconds(lambda: work(ours, x))) for _ in range(settings.rounds)]  # noqa: B023
                their_best, our_best = (min(column) for column in zip(*times, strict=True))
                print(
                    f"{name:22} {'×'.join(map(str, size)):14} {work.__name__:17} median ratio {median(a / b for a, b in times):5.2f}   "
                    f"best {1e3 * their_best:7.1f} ms / {1e3 * our_best:6.1f} ms = {their_best / our_best:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
