"""A bench as a table, as JSON, and as a plot of cost against size."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._errors import missing_extra
from .measure import Bench, Row

__all__ = ["cost_plot", "table", "write_bench"]


def table(bench: Bench) -> list[list[str]]:
    """Rows of text, the head first. Settings that are the same in all rows are left out, and memory where none was measured."""
    time = "training step" if bench.training else "forward"
    head = ["name", "size", "precision", "mode", f"{time}, ms", "quartiles", "samples/s", "MMACs", "of ceiling", "peak MB"]
    rows = [_line(row) for row in bench.rows]
    needs = {"precision": 2, "mode": 2, "peak MB": 1}
    kept = [column for column, what in enumerate(head) if len({row[column] for row in rows} - {""}) >= needs.get(what, 0)]
    return [[row[column] for column in kept] for row in [head, *rows]]


def _line(row: Row) -> list[str]:
    start = [row.name, f"{row.size} {row.unit}", row.precision, row.mode]
    if row.median is None or row.quartiles is None:
        return [*start, f"refused: {row.refused}", "", "", "", "", ""]
    low, high = row.quartiles
    return [
        *start,
        f"{1e3 * row.median:.2f}",
        f"{1e3 * low:.2f}–{1e3 * high:.2f}",
        f"{row.throughput:.1f}",
        f"{row.macs / 1e6:.1f}",
        f"{row.of_ceiling:.0%}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
    ]


def write_bench(bench: Bench, folder: Path) -> list[Path]:
    """Write ``bench.json``, and ``cost.svg`` where a thing was measured at two sizes or more; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "bench.json"]
    written[0].write_text(json.dumps(asdict(bench), indent=1) + "\n", encoding="utf8")
    if figure := cost_plot(bench):
        written.append(folder / "cost.svg")
        figure.savefig(written[1])
    return written


def cost_plot(bench: Bench) -> Any:
    """Time and memory against the number of tokens or the side of the image, on logarithmic axes; a matplotlib figure, or None with one size alone."""
    lines: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in bench.rows:
        if row.median is not None:
            lines.setdefault((row.unit, row.name, row.precision, row.mode), []).append(row)
    lines = {key: rows for key, rows in lines.items() if len(rows) > 1}
    if not lines:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "compare", "the plot of cost against size") from error
    units = sorted({key[0] for key in lines}, reverse=True)
    with_memory = any(row.peak_bytes for rows in lines.values() for row in rows)
    figure = Figure(figsize=(5.2 * (1 + with_memory), 4.2 * len(units)), layout="constrained")
    grid = figure.subplots(len(units), 1 + with_memory, squeeze=False)
    for unit, axes in zip(units, grid, strict=True):
        for (_, name, precision, mode), rows in sorted((key, rows) for key, rows in lines.items() if key[0] == unit):
            label = " ".join([name, *([precision] if precision != "float32" else []), *([mode] if mode != "eager" else [])])
            sizes = [row.size for row in rows]
            axes[0].plot(sizes, [1e3 * (row.median or 0) for row in rows], marker="o", markersize=4, label=label)
            if with_memory:
                axes[1].plot(sizes, [(row.peak_bytes or 0) / 1e6 for row in rows], marker="o", markersize=4, label=label)
        for place, what in zip(axes, ("ms a call", "peak MB beyond module and input"), strict=False):
            place.set(xscale="log", yscale="log", xlabel={"tokens": "tokens", "pixels": "side of the image, pixels"}[unit], ylabel=what)
            place.grid(color="#eceff3")
            place.spines[["top", "right"]].set_visible(False)
        axes[0].legend(frameon=False, fontsize=8)
    return figure
