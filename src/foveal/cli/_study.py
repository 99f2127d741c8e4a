"""``foveal study``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .._errors import InputError
from .._extensions import named_extensions
from ._options import parse
from ._stopped import Stopped

__all__ = ["study"]


@dataclass(frozen=True)
class _Study:
    """Run a study whose hypotheses, arms, seeds and analysis were registered before, and write what became of them."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Which study; denoising is the one that there is."""
    only: tuple[str, ...] = ()
    """Parts to run, such as S1 S2; all if not given. Corrections count the others as well."""
    jobs: int | None = None
    """Runs at a time, one thread each; one per core if not given."""
    out: Path | None = None
    """Folder of the study; runs/study-NAME if not given. Re-run the same command to resume."""
    page: Path | None = None
    """Where the page of the documentation goes, with its figures beside it; page.md in the folder if not given."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A rehearsal of seconds, with few steps and seeds: everything runs, and nothing is judged."""


def study(words: list[str]) -> None:
    """Run a registered study: study NAME"""
    chosen: _Study = parse(_Study, "study", words, flags=True)
    from ..lab.study import load_registration, run_study, write_page, write_results
    from ..lab.training import Interrupted

    registration = load_registration(chosen.name)
    if chosen.smoke:
        registration = registration.rehearsal()
        if chosen.page is not None:
            raise InputError("--page is for the documentation, and the numbers of --smoke mean nothing; leave one of the two out")
    if len(set(chosen.only)) < len(chosen.only):
        raise InputError(f"each part can be given once, got {' '.join(chosen.only)}")
    registration = registration.of(chosen.only) if chosen.only else registration
    out = chosen.out or Path(f"runs/study-{chosen.name}{'-smoke' if chosen.smoke else ''}")
    try:
        run_study(registration, out, jobs=chosen.jobs)
    except Interrupted as stopped:
        imports = [word for name in named_extensions() for word in ("--import", name)]
        raise Stopped(f"stopped; what is done is kept; re-run the same command to resume: foveal study {' '.join([*words, *imports])}".rstrip()) from stopped
    results = write_results(registration, out)
    page = chosen.page or out / "page.md"
    write_page(results, page, out / "report.html")
    for one in results["hypotheses"]:
        if one["outcome"] != "not judged":
            print(f"{one['id']}{' (primary)' if one['primary'] else ''}: {one['outcome']} (corrected p {one['corrected']:.3g}): {one['says']}")
    print(f"\nreport: {(out / 'report.html').resolve()}\npage:   {page.resolve()}\ndata:   {(out / 'results.json').resolve()}")
