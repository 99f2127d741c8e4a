"""Threads of a process group that outlive it: PyTorch aborts a process whose gloo thread still drops a collective's work while Python ends."""

from pathlib import Path


def threads_of_process_groups() -> list[str]:
    """Names of the threads that gloo runs in this process; none where the system does not list them (Linux does)."""
    return [name for name in (_name(thread) for thread in Path("/proc/self/task").glob("*")) if "gloo" in name]


def _name(thread: Path) -> str:
    try:
        return (thread / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""
