"""What a model costs: parameters and multiply-adds counted exactly, seconds and bytes measured."""

import copy
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import Cost

__all__ = ["cost", "latency", "peak_memory"]


def cost(model: nn.Module, input_size: Sequence[int], *others: Tensor) -> Cost:
    """Parameters, and multiply-adds of one forward pass on one sample of ``input_size`` ``(C, H, W)``; ``others`` are further inputs, on the meta device.

    Counted on the meta device: on the CPU PyTorch's counter says 0 for fused attention, which makes softmax look cheaper than it is.
    """
    # here and below: these two take longer to import than all of Foveal
    from torch.utils.flop_counter import FlopCounterMode

    # without gradients altogether: the counter's own hooks stumble over a parameter that a module hands out as it is
    shadow = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, *input_size, device="meta"), *others)
    return Cost(parameters=sum(p.numel() for p in model.parameters()), macs=counter.get_total_flops() // 2)


def latency(calls: dict[str, Callable[[], Any]], *, threads: int = 1, rounds: int = 5, min_run_time: float = 0.2) -> dict[str, float]:
    """Median seconds of each call. The calls are timed in turn, several rounds, so that a machine that slows down slows all of them."""
    from torch.utils.benchmark import Timer

    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            timer = Timer("call()", globals={"call": call}, num_threads=threads)
            measured[name].append(timer.blocked_autorange(min_run_time=min_run_time).median)
    return {name: sorted(times)[len(times) // 2] for name, times in measured.items()}


def peak_memory(prepare: Callable[..., Callable[[], Any]], *args: Any) -> int:
    """Bytes that one call needs at its peak, beyond what was there before, in a fresh process.

    Args:
        prepare: a function of a module (it is pickled) that builds what is needed and returns the call.
        args: passed to ``prepare``.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, prepare, args))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:
        raise RuntimeError(f"the process that measured memory of {prepare.__qualname__} ended without an answer; its own traceback stands above") from None
    finally:
        process.join()


def _measure(sender: Any, prepare: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    sender.send(peak_of_call(prepare, *args))


def peak_of_call(prepare: Callable[..., Callable[[], Any]], *args: Any) -> int:
    """As :func:`peak_memory` in a process that does nothing else: what it did before is memory that the call takes again unseen."""
    torch.set_num_threads(1)
    call = prepare(*args)
    before = _reset_peak()
    call()
    return _peak() - before


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _reset_peak() -> int:
    """Forget the most memory this process ever held; returns what it holds now. Where it cannot, what loading libraries took hides part of the call."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")
    return _peak()


def _peak() -> int:
    if _STATUS.exists():
        return next(int(line.split()[1]) * 1024 for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    # not at the top: Windows has no such module, and all else here works there
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
