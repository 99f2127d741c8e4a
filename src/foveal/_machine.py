"""Which machine this is, for what is reported of it."""

import platform
from pathlib import Path

__all__ = ["processor"]


def processor() -> str:
    """The processor's name as the system has it; platforms without /proc give what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf8").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
