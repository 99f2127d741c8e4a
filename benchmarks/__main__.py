"""``python -m benchmarks [--write] [NAME …]``: run all or those named, print the table, and with ``--write`` put it into docs/benchmarks.md."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import torch

from . import (
    bfloat16,
    ceiling,
    compiled,
    convert,
    denoising,
    dense,
    detection,
    eamlp,
    external,
    halo,
    halonet,
    loader,
    maps,
    models,
    projection,
    reading,
    summary,
    vit,
)
from ._harness import THREADS, Row, line, run

_MODULES = (dense, detection, loader, denoising, ceiling, compiled, bfloat16, convert, eamlp, external)
_MODULES += (halo, halonet, maps, models, projection, reading, summary, vit)
BENCHMARKS = [module.__name__.rpartition(".")[2] for module in _MODULES]
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> int:
    write = "--write" in sys.argv
    names = [name for name in sys.argv[1:] if name != "--write"] or BENCHMARKS
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names:
        # each in a process of its own: what one leaves behind in the allocator changes the times of the next
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows += pool.submit(run, name).result()
    if write:
        PAGE.write_text(_page(names, rows), encoding="utf8")
        print(f"written to {PAGE}")
    return 0


def _page(names: list[str], rows: list[Row]) -> str:
    processor = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown")
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Made by `python -m benchmarks --write {' '.join(names)}` on {date.today()}: {processor}, {THREADS} threads, torch {torch.__version__}, float32.",
            "",
            "Each line compares two sides in one run. Both were first shown to compute the same; then they took turns,",
            "and the ratio is the median over the turns.",
            "On a shared machine ratios move by a few per cent from run to run, and times by much more.",
            "",
            "| what | size | ours | other side | ratio | target | met |",
            "|---|---|---|---|---|---|---|",
            *map(line, rows),
            "",
            "Denoising attention has 1.5 × the projections and 2 × the maps of softmax attention. Where it takes less than that ratio of",
            "multiply-adds, the reason is that PyTorch sends float32 linear maps to a library that is slower on this processor than the one",
            "that does its convolutions, and we take the latter for large inputs (`foveal/attention/_linear.py`), with gradients too, and in our own networks",
            "also for the maps between attentions. On one thread both go to the same library.",
            "`torch.compile` keeps what it is given, so it is given the same.",
            "The same helps our softmax attention, as its lines show: it is no property of denoising.",
            "",
            "What bounds a ratio: of DnA ViT-B's multiply-adds the maps are 22 % at 448 pixels and 7 % at 224, so most of what it gains on its",
            "authors' formulation there are linear maps. Of the fastest matrix product, denoising attention reaches what PyTorch's fused float32",
            "kernel lets it, the less the more tokens it has. An efficient block of 512 channels has 25.8 G multiply-adds at 128 × 128 pixels, its",
            "own 512 × 512 map among them, and a softmax block 292: 11.3 times as many, and a target of 20 is out of reach. In halonet26t",
            'convolutions and norms take most of the time, and are the same on both sides: the lines "no attention" say how much.',
            "",
            "Efficient and linear attention do not compute what attention of pairs computes; each was first shown to equal its own reference. At unequal",
            "widths PyTorch has no fast path on the CPU, which is most of the larger factor. Their time grows with the number of tokens. Without gradients",
            "long inputs are read in pieces that stay in the cache, so the output alone is asked of the system anew at every call. That costs time too once it",
            "is larger than 32 MB, where glibc gives it back at once; so growth is given with and without such an allocator.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
