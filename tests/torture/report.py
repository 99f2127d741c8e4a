"""What campaigns found, as lines, as docs/torture.json and as docs/torture.md."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .campaign import CAMPAIGNS, Trial

__all__ = ["Result", "summary", "write_report"]

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Result:
    """Of one campaign."""

    name: str
    about: str
    trials: list[Trial]
    seconds: float
    stopped: bool = False
    """By a limit of time; more would have been tried."""

    @property
    def faults(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.fault]

    def counts(self) -> dict[str, Counter[str]]:
        """By kind, how many trials counted as what."""
        found: dict[str, Counter[str]] = {}
        for trial in self.trials:
            found.setdefault(trial.kind, Counter())["wrong" if trial.fault else trial.counted] += 1
        return found


def summary(result: Result) -> str:
    lines = [f"{result.name}: {len(result.trials)} tried, {len(result.faults)} wrong, {result.seconds:.0f} s"]
    return "\n".join([*lines, *(f"  {kind}: {_counted(counts)}" for kind, counts in result.counts().items())])


def write_report(results: Sequence[Result]) -> None:
    """The campaigns that were run; those of an earlier report that were not run now stay as they were, with their date."""
    path = DOCS / "torture.json"
    before = json.loads(path.read_text(encoding="utf8"))["campaigns"] if path.exists() else {}
    now = {result.name: _plain(result) for result in results}
    whole = {"campaigns": {name: now.get(name, before.get(name)) for name in sorted({*before, *now})}}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    from .page import page

    (DOCS / "torture.md").write_text(page(whole["campaigns"], [name for name in CAMPAIGNS if name not in whole["campaigns"]]), encoding="utf8")


def _plain(result: Result) -> dict[str, Any]:
    return {
        "about": result.about,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.system()}, {platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}",
        "seconds": round(result.seconds),
        **({"stopped": True} if result.stopped else {}),
        "tried": len(result.trials),
        "kinds": {kind: dict(sorted(counts.items())) for kind, counts in result.counts().items()},
        "wrong": [{"kind": trial.kind, "what": trial.what, "fault": trial.fault[:600]} for trial in result.faults],
    }


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
