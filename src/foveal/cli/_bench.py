"""``foveal bench``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .._console import console, table
from .._errors import InputError
from ._options import parse

__all__ = ["bench"]


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Measure what attentions and models cost on this machine; what does not compute what it should is refused."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME …")]
    """Attentions out of `foveal list`, or models out of timm, those of Foveal among them."""
    tokens: tuple[int, ...] = (196, 1024, 4096)
    """Sizes for attentions; square numbers where there is a grid."""
    pixels: tuple[int, ...] = (224,)
    """Sizes for models: the side of an image."""
    frames: int | None = None
    """Frames of a clip, for models on videos; what they are built for if not given."""
    dim: int = 384
    """Width of tokens, or channels of maps."""
    num_heads: int = 6
    """Heads of attentions on tokens."""
    batch: int = 1
    """Samples of one call."""
    precisions: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32",)
    """Number formats to measure in."""
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    """As it is, by torch.compile, or both."""
    training: bool = False
    """A training step in place of the forward pass."""
    memory: bool = True
    """Peak memory too; on the CPU a process for every row."""
    rounds: int = 5
    """Times that every row is measured, in turns; the median counts."""
    threads: int | None = None
    """Threads of the CPU; torch's default if not given."""
    out: Path = Path("runs/bench")
    """Folder for bench.json and cost.svg."""


def bench(words: list[str]) -> None:
    """Measure time, memory and multiply-adds of attentions and models: bench NAME …"""
    chosen: _Bench = parse(_Bench, "bench", words)
    import torch

    from ..bench import Row, Settings, run_bench, write_bench
    from ..bench import table as rows_of
    from ..lab.training.checkpoint import check_folder

    if chosen.threads is not None:
        if chosen.threads < 1:
            raise InputError(f"threads must be at least 1, got {chosen.threads}")
        torch.set_num_threads(chosen.threads)
    options = {name: value for name, value in vars(chosen).items() if name not in ("threads", "out")}
    settings = Settings(**options)
    check_folder(chosen.out)

    def tell(row: Row) -> None:
        took = f"refused: {row.refused}" if row.median is None else f"{1e3 * row.median:.2f} ms"
        print(f"{row.name}, {row.size} {row.unit}, {row.precision}, {row.mode}: {took}", file=sys.stderr)

    bench = run_bench(settings, each=tell)
    head, *lines = rows_of(bench)
    shown = table(head, lines, box=None, pad_edge=False)
    for place, column in enumerate(shown.columns):
        column.no_wrap, column.justify = True, "left" if place < 2 else "right"
    # what is cut cannot be read: a line that is too long for a terminal breaks there
    console(width=max(console().width, console(width=1000).measure(shown).maximum)).print(shown)
    ceilings = ", ".join(f"{name} {rate / 1e9:.0f} GMAC/s" for name, rate in bench.ceilings.items())
    print(f"{bench.machine['device']}, {bench.machine['threads']} threads, torch {bench.machine['torch']}; ceiling: {ceilings}; batch {bench.batch}")
    print("\n".join(str(path) for path in write_bench(bench, chosen.out)))
