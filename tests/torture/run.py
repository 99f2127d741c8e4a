"""One campaign after another, each in a folder of its own that is cleared away, and a line for everything that was wrong."""

import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from . import comparisons, divergence, loaders, markup, memory, places, readers, run_files, train_kills, two_processes  # noqa: F401  # each enters its campaigns
from .campaign import CAMPAIGNS, Size, Trial
from .report import Result, summary, write_report

__all__ = ["run_campaigns"]

SHORT = ("train", "places", "files")
"""What is tried in seconds."""


def run_campaigns(names: Sequence[str], work: Path, started: float, *, short: bool, write: bool, minutes: float | None = None) -> int:
    """Exit code 0 if nothing was wrong."""
    found = []
    for name in names or (SHORT if short else CAMPAIGNS):
        result = _run(name, work / name, Size(short), minutes)
        found.append(result)
        print(summary(result), flush=True)
        if write:
            # each as it ends, so that nothing is lost of those before
            write_report([result])
    shutil.rmtree(work, ignore_errors=True)
    print(f"{sum(len(result.trials) for result in found):,} trials in {time.monotonic() - started:.0f} s")
    return int(any(result.faults for result in found))


def _run(name: str, work: Path, size: Size, minutes: float | None) -> Result:
    work.mkdir(parents=True)
    trials, began, stopped = list[Trial](), time.monotonic(), False
    try:
        for trial in CAMPAIGNS[name](work, size):
            trials.append(trial)
            if trial.fault:
                print(f"  {trial.kind}: {trial.what}\n    {trial.fault}", flush=True)
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                stopped = True
                break
    except Exception as error:
        # what breaks off has not shown that nothing is wrong
        traceback.print_exc()
        trials.append(Trial("the campaign itself", name, f"broke off: {type(error).__name__}: {error}"))
    return Result(name, (CAMPAIGNS[name].__doc__ or "").strip(), trials, time.monotonic() - began, stopped)
