"""What comparisons have in common: how they are judged, and what follows once one is planned."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .._console import plain
from .._errors import InputError
from .._extensions import named_extensions
from ._next import after_comparison, next_lines
from ._stopped import Stopped

__all__ = ["Flag", "JudgingOptions", "run_and_report"]

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class JudgingOptions:
    """How many runs there are, and what decides."""

    seeds: int | None = None
    until: Flag = False
    """Look after 4, 8 and 12 seeds, and end when the primary comparison is better, worse or equal. All looks together err in one report of twenty."""
    primary: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """The comparison that decides: a variant, and what it is held against, the baseline if that is left out. If not given the first that has a softmax of
    as many parameters beside it, with that; else the first with the baseline."""
    margin: float | None = None
    """Differences below it do not matter, in the unit of the report, and what is shown to lie within is called equal. If not given 1 point of a percentage,
    else a twentieth of what the baseline has."""
    tune: Flag = False
    """Choose each variant's learning rate among half, one and two times that of all, at full length on validation, with two seeds that are not judged.
    Six more runs of each variant."""

    def judging(self, seeds: int) -> dict[str, Any]:
        """For a plan; ``seeds`` are those of a comparison that says none.

        Raises:
            ValueError: both ``--seeds`` and ``--until``.
        """
        from ..lab.compare.plan import LOOKS

        if self.until and self.seeds is not None:
            raise InputError(f"give --seeds or --until, not both; --until looks after {', '.join(map(str, LOOKS[:-1]))} and {LOOKS[-1]} seeds")
        given = seeds if self.seeds is None else self.seeds
        return {"seeds": given, "primary": self.primary, "margin": self.margin, "looks": LOOKS if self.until else (), "tune": self.tune}


def run_and_report(
    plan: Any,
    out: Path,
    words: list[str],
    *,
    jobs: int | None,
    cluster: Any = None,
    measure: Callable[[], None] | None = None,
    more: Callable[[Any], list[str]] | None = None,
) -> None:
    """Run a plan, and write and print what it shows.

    Args:
        plan: of the comparison.
        out: its folder.
        words: of the command, which is named where it is to be repeated.
        jobs: runs at a time.
        cluster: where they run; on this machine if None.
        measure: what else is measured before the report.
        more: further lines behind the verdict, from the results.
    """
    from ..lab.compare import run_plan, write_report, write_results, write_summary, write_viewer
    from ..lab.training import Interrupted, read_json, write_json

    again = shlex.join(["foveal", "compare", *words, *(word for name in named_extensions() for word in ("--import", name))])
    try:
        run_plan(plan, out, jobs=jobs, cluster=cluster)
    except Interrupted as stopped:
        raise Stopped(f"stopped; what is done is kept; re-run the same command to resume: {again}") from stopped
    write_json(out / "command.json", {"command": again})
    if measure is not None:
        measure()
    results = read_json(write_results(out))
    viewer, unseen = None, ""
    try:
        viewer = write_viewer(results, out)
    except InputError as error:
        # hours of runs are not to end without their report for want of a page beside it
        unseen = f"\nnote: no attention.html: {plain(str(error))}"
    report = write_report(results, out / "report.html", viewer=viewer)
    write_summary(results, out / "summary.md")
    lines = ["", results["verdict"]["headline"], *(f"  {line['mark']} {line['text']}" for line in results["verdict"]["lines"])]
    further = [] if more is None else more(results)
    print("\n".join([*lines, *(["", *further] if further else [])]))
    seen = unseen if viewer is None else f"\nmaps:   {viewer.resolve()}"
    print(f"\nreport: {report.resolve()}{seen}\ndata:   {(out / 'results.json').resolve()}")
    if following := next_lines(after_comparison(results, plan.recipe.task, out)):
        print(following)
