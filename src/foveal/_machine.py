"""Which machine this is, for what is reported of it; and what torch need not say of it."""

import logging
import os
import platform
import warnings
from pathlib import Path

__all__ = ["cores", "first_process", "processes", "processor", "quiet_cuda", "workers_note"]


def processor() -> str:
    """The processor's name as the system has it; platforms without /proc give what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf8").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes() -> int:
    """Processes that ``torchrun`` or ``accelerate launch`` started together, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_process() -> bool:
    """Every process of torchrun comes to the end, and one of them says so."""
    return os.environ.get("RANK", "0") == "0"


def quiet_cuda() -> None:
    """Keep torch from saying, whenever it compiles on a CPU beside an installed compiler of CUDA, that it found no runtime of CUDA."""
    logging.getLogger("torch.utils.cpp_extension").addFilter(_other_than_cuda)


def _other_than_cuda(record: logging.LogRecord) -> bool:
    return "No CUDA runtime is found" not in record.getMessage()


def workers_note(workers: int) -> str:
    """What is to be said, once, of more processes that read data than there are cores; torch, which says it of every loader, is then silent."""
    if workers <= cores():
        return ""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return f"note: {workers} workers read data on {cores()} cores; fewer, --workers {cores()}, may be faster"
