"""Ratios measured side by side in one run: both sides first compute the same thing, then take turns."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from statistics import median

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

THREADS = 2
ROUNDS = range(5, 16)
"""At least and at most; slow calls get fewer."""


@dataclass(frozen=True)
class Row:
    """A line of the table. ``ratio`` is what the target is about."""

    what: str
    setting: str
    ours: str
    theirs: str
    ratio: float
    target: str
    met: bool


def line(row: Row) -> str:
    """A line of the table in Markdown."""
    return f"| {row.what} | {row.setting} | {row.ours} | {row.theirs} | {row.ratio:.2f} | {row.target} | {'yes' if row.met else '**no**'} |"


def run(name: str) -> list[Row]:
    """All rows of a benchmark, printed as they are done; called in a process of its own."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rows = []
    for row in import_module(f"benchmarks.{name}").rows():
        rows.append(row)
        print(line(row), flush=True)
    return rows


def check_equal(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], tolerance: float = 1e-4) -> None:
    """Refuse to time two sides that do not compute the same."""
    got, want = ours(), theirs()
    error = ((got - want).abs().max() / want.abs().max()).item()
    if not error < tolerance:
        raise SystemExit(f"the two sides differ by {error:.1e} relative, allowed {tolerance:.0e}: no time is reported")


def paired_ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the ratios round by round: a machine that slows down slows both."""
    timers = [Timer("call()", globals={"call": call}, num_threads=THREADS) for call in (ours, theirs)]
    seconds = [timer.timeit(2).mean for timer in timers]
    repeats = [max(1, round(0.1 / each)) for each in seconds]
    count = min(max(round(4 / sum(seconds)), ROUNDS.start), ROUNDS.stop - 1)
    rounds = [[timer.timeit(number).mean for timer, number in zip(timers, repeats, strict=True)] for _ in range(count)]
    return median(a for a, _ in rounds), median(b for _, b in rounds), median(a / b for a, b in rounds)


_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_MAX = -1, -4


@contextmanager
def memory_kept() -> Iterator[None]:
    """glibc gives large blocks back to the system at once, and every page of the next is faulted in and zeroed. Within this, freed memory stays.

    As with the allocators that PyTorch's guide for CPUs recommends (jemalloc, tcmalloc), or a GPU's.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        raise SystemExit("memory can be kept where the C library is glibc; leave this benchmark out on another system")
    libc.mallopt(_MALLOC_MMAP_MAX, 0)
    libc.mallopt(_MALLOC_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_MALLOC_MMAP_MAX, 65536)
        libc.mallopt(_MALLOC_TRIM_THRESHOLD, 128 * 1024)


def at_most(what: str, setting: str, ours: Callable[[], object], theirs: Callable[[], object], limit: float) -> Row:
    """Our time over theirs."""
    a, b, ratio = paired_ratio(ours, theirs)
    return Row(what, setting, f"{1e3 * a:.2f} ms", f"{1e3 * b:.2f} ms", ratio, f"≤ {limit} ×", ratio <= limit)


def faster(what: str, setting: str, ours: Callable[[], object], theirs: Callable[[], object], limit: float) -> Row:
    """Their time over ours."""
    a, b, ratio = paired_ratio(ours, theirs)
    return Row(what, setting, f"{1e3 * a:.2f} ms", f"{1e3 * b:.2f} ms", 1 / ratio, f"≥ {limit} × faster", 1 / ratio >= limit)


def inference(module: torch.nn.Module, *inputs: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return module(*inputs)

    return call
