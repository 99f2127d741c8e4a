"""What follows once a comparison is planned: its runs, its report, and what is printed."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._extensions import named_extensions
from ._stopped import Stopped

__all__ = ["run_and_report"]


def run_and_report(
    plan: Any, out: Path, words: list[str], *, jobs: int | None, measure: Callable[[], None] | None = None, more: Callable[[Any], list[str]] | None = None
) -> None:
    """Run a plan, and write and print what it shows.

    Args:
        plan: of the comparison.
        out: its folder.
        words: of the command, which is named where it is to be repeated.
        jobs: runs at a time.
        measure: what else is measured before the report.
        more: further lines behind the verdict, from the results.
    """
    from ..lab.compare import run_plan, write_report, write_results, write_summary
    from ..lab.training import Interrupted, read_json, write_json

    again = shlex.join(["foveal", "compare", *words, *(word for name in named_extensions() for word in ("--import", name))])
    try:
        run_plan(plan, out, jobs=jobs)
    except Interrupted as stopped:
        raise Stopped(f"stopped; what is done is kept; re-run the same command to resume: {again}") from stopped
    write_json(out / "command.json", {"command": again})
    if measure is not None:
        measure()
    results = read_json(write_results(out))
    report = write_report(results, out / "report.html")
    write_summary(results, out / "summary.md")
    lines = ["", results["verdict"]["headline"], *(f"  {line['mark']} {line['text']}" for line in results["verdict"]["lines"])]
    further = [] if more is None else more(results)
    print("\n".join([*lines, *(["", *further] if further else [])]))
    print(f"\nreport: {report.resolve()}\ndata:   {(out / 'results.json').resolve()}")
