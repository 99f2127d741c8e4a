"""The measurement. Nothing is timed before it was shown to compute what the same module computes in float64, eagerly, with no fused kernel.

All that is measured at one size takes turns, so that a machine that slows down slows all of it. What a machine can do at most is measured in the same run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache, partial
from statistics import median, quantiles
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._errors import InputError
from .._machine import processor, quiet_cuda
from ..analysis import peak_memory
from ..attention._linear import project
from .subject import Subject, subject

__all__ = ["Bench", "Row", "Settings", "run_bench"]

# here, because the processes that measure memory import this module too
quiet_cuda()

Precision = Literal["float32", "bfloat16", "float16"]
Mode = Literal["eager", "compiled"]
Reference = Callable[[Subject], list[Tensor]]
"""What a subject should give at one size, in float64; computed once for all precisions and modes."""
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCES = {"float32": 1e-4, "bfloat16": 6e-2, "float16": 2e-2}
"""Largest error of a row, relative to the largest magnitude of the output."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    names: tuple[str, ...]
    tokens: tuple[int, ...] = (196, 1024, 4096)
    """Sizes for attentions."""
    pixels: tuple[int, ...] = (224,)
    """Sizes for models: the side of an image."""
    frames: int | None = None
    """Frames of a clip, for networks on videos; what each is built for if None."""
    dim: int = 384
    num_heads: int = 6
    batch: int = 1
    precisions: tuple[Precision, ...] = ("float32",)
    modes: tuple[Mode, ...] = ("eager",)
    training: bool = False
    """A training step, forward and backward, in place of the forward pass."""
    memory: bool = True
    """Measure peak memory too; on the CPU each row then starts a process."""
    rounds: int = 5
    seconds: float = 0.2
    """At least so long is each row timed in each round."""

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("expected the names of attentions or of timm models, got none; foveal list shows the attentions")
        if len(set(self.names)) < len(self.names):
            raise InputError(f"each name can be measured once, got {' '.join(self.names)}")
        counts = (*self.tokens, *self.pixels, self.dim, self.num_heads, self.batch, self.rounds, 1 if self.frames is None else self.frames)
        if min(counts) < 1 or self.seconds <= 0:
            raise InputError(f"sizes, frames, dim, num_heads, batch and rounds must be at least 1 and seconds above 0, got {self}")


@dataclass(frozen=True)
class Row:
    """One thing at one size. Times are seconds of one call with the whole batch."""

    name: str
    unit: str
    size: int
    precision: str
    mode: str
    error: float
    """Largest difference from the same module in float64 without fused kernels, relative to its largest magnitude."""
    refused: str
    """Why nothing was measured; empty where it was."""
    parameters: int = 0
    macs: int = 0
    """Multiply-adds of the forward pass of one sample, analytic."""
    median: float | None = None
    quartiles: tuple[float, float] | None = None
    throughput: float | None = None
    """Samples a second."""
    of_ceiling: float | None = None
    """Multiply-adds a second over those of the machine's fastest matrix multiplication in this precision. A training step counts as three forward passes."""
    peak_bytes: int | None = None
    """Beyond module and input."""


@dataclass(frozen=True)
class Bench:
    """A finished run."""

    machine: dict[str, Any]
    ceilings: dict[str, float]
    """Multiply-adds a second of the fastest of a few square matrix multiplications, by precision."""
    training: bool
    batch: int
    rows: list[Row] = field(default_factory=list)


def run_bench(settings: Settings, *, each: Callable[[Row], None] = lambda row: None, device: torch.device | None = None) -> Bench:
    """Check and measure everything.

    Args:
        settings: what.
        each: called with every row as it is done.
        device: where; the accelerator if None, or the CPU where there is none.

    Returns:
        A row for every name, size, precision and mode. A row that does not compute what it should has no times and says so in ``refused``.

    Raises:
        ValueError: an unknown name, or a size that a thing cannot have; before anything is measured.
    """
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None, "an accelerator that is available is one"
    subjects = [subject(name, dim=settings.dim, num_heads=settings.num_heads, frames=settings.frames) for name in settings.names]
    sizes = {"tokens": settings.tokens, "pixels": settings.pixels}
    for thing in subjects:
        for size in sizes[thing.unit]:
            thing.shape(size)
    bench = Bench(_machine(device), {name: _ceiling(DTYPES[name], device) for name in settings.precisions}, settings.training, settings.batch)
    for unit, lengths in sizes.items():
        for size in lengths:
            wanted = cache(partial(_reference, size=size, settings=settings))
            for precision in settings.precisions:
                group = [thing for thing in subjects if thing.unit == unit]
                for row in _side_by_side(group, size, precision, settings, device, bench.ceilings[precision], wanted):
                    bench.rows.append(row)
                    each(row)
    return bench


def _side_by_side(
    things: Sequence[Subject], size: int, precision: Precision, settings: Settings, device: torch.device, ceiling: float, wanted: Reference
) -> list[Row]:
    from torch.utils.benchmark import Timer

    rows: list[Row] = []
    calls: list[Callable[[], object] | None] = []
    if "compiled" in settings.modes:
        # what was compiled for the last group is called no more, and counts as recompiling what is compiled now
        torch._dynamo.reset()
    # attentions share a forward, which is compiled for each of them
    with torch._dynamo.config.patch(recompile_limit=8 + len(things)):
        for thing in things:
            for mode in settings.modes:
                row, call = _checked(thing, size, precision, mode, settings, device, wanted)
                rows.append(row)
                calls.append(call)
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(settings.rounds):
        for call, seen in zip(calls, times, strict=True):
            if call is not None:
                timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
                seen += timer.blocked_autorange(min_run_time=settings.seconds).times
    done = []
    for thing, row, seen in zip([thing for thing in things for _ in settings.modes], rows, times, strict=True):
        if not seen:
            done.append(row)
            continue
        middle = median(seen)
        low, _, high = quantiles(seen, n=4, method="inclusive") if len(seen) > 1 else (middle, middle, middle)
        work = row.macs * settings.batch * (3 if settings.training else 1)
        peak = _peak(thing, size, row, settings, device) if settings.memory else None
        done.append(replace(row, median=middle, quartiles=(low, high), throughput=settings.batch / middle, of_ceiling=work / middle / ceiling, peak_bytes=peak))
    return done


def _checked(
    thing: Subject, size: int, precision: Precision, mode: Mode, settings: Settings, device: torch.device, wanted: Reference
) -> tuple[Row, Callable[[], object] | None]:
    """The row so far, and the call that is to be timed; none where the check failed."""
    module = thing.module(size).eval()
    x = thing.sample(size, settings.batch)
    parameters = sum(p.numel() for p in module.parameters())
    call = _prepare(module, x, precision, mode, settings.training, device)
    got = _outcome(call)
    want = wanted(thing)
    assert [part.shape for part in got] == [part.shape for part in want], f"{thing.name} gives other shapes in {precision} than in float64"
    error = max(_relative(ours, theirs) for ours, theirs in zip(got, want, strict=True))
    row = Row(thing.name, thing.unit, size, precision, mode, error, "", parameters, thing.macs(size))
    if not error <= TOLERANCES[precision]:
        return replace(row, refused=f"differs by {error:.1e} from float64, more than the {TOLERANCES[precision]:.0e} of {precision}"), None
    return row, call


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double().cpu() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def _reference(thing: Subject, size: int, settings: Settings) -> list[Tensor]:
    module = thing.module(size).eval().double()
    x = thing.sample(size, settings.batch).double()
    with sdpa_kernel(SDPBackend.MATH):
        return _outcome(_call(module, x, settings.training))


def _prepare(module: nn.Module, x: Tensor, precision: Precision, mode: Mode, training: bool, device: torch.device) -> Callable[[], Any]:
    module, x = module.to(device, DTYPES[precision]), x.to(device, DTYPES[precision])
    return _call(torch.compile(module, fullgraph=True) if mode == "compiled" else module, x, training)


def _call(module: Any, x: Tensor, training: bool) -> Callable[[], Any]:
    """The forward pass; with ``training``, output and gradient of the input. Dropout stays off: it would make every call another."""
    if not training:

        def forward() -> Tensor:
            with torch.no_grad():
                return module(x)

        return forward
    x = x.requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        module.zero_grad()
        x.grad = None
        out = module(x)
        out.float().square().mean().backward()
        assert x.grad is not None, "backward leaves a gradient in the input"
        return out, x.grad

    return step


def _outcome(call: Callable[[], Any]) -> list[Tensor]:
    out = call()
    return [part.detach() for part in (out if isinstance(out, (tuple, list)) else [out])]


@cache
def _ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-adds a second of the fastest product."""
    product, work = fastest_product(dtype, device)
    return work / _seconds(product)


def fastest_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Tensor], int]:
    """A large matrix multiplication, the fastest of a few sizes and of the two libraries that PyTorch may send it to, and its multiply-adds."""
    products: list[tuple[Callable[[], Tensor], int]] = []
    # the smallest would be over on an accelerator before the next is begun
    for side in (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192):
        x = torch.randn(1, side, side, device=device, dtype=dtype)
        linear = nn.Linear(side, side, bias=False, device=device, dtype=dtype)
        products += [(partial(torch.matmul, x, linear.weight.detach()), side**3), (partial(torch.no_grad()(project), linear, x), side**3)]
    return max(products, key=lambda product: product[1] / _seconds(product[0]))


def _seconds(call: Callable[[], object]) -> float:
    """Of a call at its fastest."""
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(min(timer.blocked_autorange(min_run_time=0.2).times))


def _peak(thing: Subject, size: int, row: Row, settings: Settings, device: torch.device) -> int:
    if device.type == "cpu":
        return peak_memory(_in_a_process, thing, size, settings.batch, row.precision, row.mode, settings.training)
    call = _prepare(thing.module(size).eval(), thing.sample(size, settings.batch), row.precision, row.mode, settings.training, device)  # type: ignore[arg-type]
    call()
    torch.accelerator.memory.reset_peak_memory_stats(device)
    before = torch.accelerator.memory.memory_allocated(device)
    call()
    return int(torch.accelerator.memory.max_memory_allocated(device) - before)


def _in_a_process(thing: Subject, size: int, batch: int, precision: Precision, mode: Mode, training: bool) -> Callable[[], Any]:
    call = _prepare(thing.module(size).eval(), thing.sample(size, batch), precision, mode, training, torch.device("cpu"))
    if mode == "compiled":
        # compiling takes memory of its own
        call()
    return call


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "date": date.today().isoformat()}
