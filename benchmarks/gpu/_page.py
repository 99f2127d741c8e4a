"""The page of a run, made of its JSON alone."""

from datetime import date
from typing import Any

import torch

from foveal._machine import processor

__all__ = ["about", "page"]

_HEADS = {
    "forward": "Forward pass of every mechanism",
    "training": "Forward and backward of every mechanism",
    "rivals": "Beside what one would take otherwise",
    "picks": "Which fused kernel is the fastest for what we ask",
    "networks": "Published networks",
    "compiled": "Compiled and eager",
}
_COLUMNS = ("name", "size", "batch", "precision", "mode", "training", "error", "median", "of_ceiling", "peak_bytes")


def about(device: torch.device) -> dict[str, Any]:
    """Where and with what."""
    cuda = device.type == "cuda"
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if cuda else processor(),
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def page(found: dict[str, Any]) -> str:
    """Markdown."""
    ceilings = ", ".join(f"{name} {rate / 1e12:.1f} TMAC/s" for name, rate in found["ceilings"].items()) or "not measured"
    lines = [
        "# On a GPU",
        "",
        f"Made by `python -m benchmarks.gpu` on {found['date']} in {found['minutes']} minutes:",
        f"{found['device']}, torch {found['torch']}, CUDA {found['cuda']}.",
        f"The fastest matrix product that was found: {ceilings}; shares are of it, and a training step counts as three forward passes.",
        "Before a module or a network was timed it was held against itself in float64 on the processor, and beside others against the other where both",
        "compute the same; `error` is the largest difference, relative to the largest number. Kernels are PyTorch's own, and are timed alone.",
        "",
    ]
    if found["smoke"]:
        lines += ["**A rehearsal with small sizes: its numbers show nothing.**", ""]
    if found["wrong"]:
        lines += ["**Wrong, and not timed:**", "", *(f"- {said}" for said in found["wrong"]), ""]
    lines += [line for name, why in found["cut"].items() for line in (f"**{_HEADS[name]}** is not whole: {why}.", "")]
    for name, rows in found["parts"].items():
        columns = [column for column in _COLUMNS if column in rows[0]] if "median" in rows[0] else list(rows[0])
        columns = [column for column in columns if len(rows) == 1 or len({str(row[column]) for row in rows}) > 1 or column in ("name", "error", "median")]
        lines += [f"## {_HEADS[name]}", "", "| " + " | ".join(_TITLES.get(column, column) for column in columns) + " |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(_cell(column, row[column]) for column in columns) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


_TITLES = {"median": "ms", "of_ceiling": "of ceiling", "peak_bytes": "peak MB", "ours_ms": "ours, ms", "theirs_ms": "other, ms"}


def _cell(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if column == "median":
        return f"{1e3 * value:.3f}"
    if column == "of_ceiling":
        return f"{value:.0%}"
    if column == "peak_bytes":
        return f"{value / 1e6:.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
