"""``foveal study``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .._errors import InputError, unknown
from .._extensions import named_extensions
from ._options import parse
from ._ray import RayOptions, with_address
from ._stopped import Stopped

if TYPE_CHECKING:
    from ..lab.study import Registration

__all__ = ["study"]


@dataclass(frozen=True)
class _Study(RayOptions):
    """Run a study whose hypotheses, arms, seeds and analysis were registered before, and write what became of them."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Which study; denoising is the one that there is."""
    only: tuple[str, ...] = ()
    """Parts to run, such as S1 S2; all if not given. Corrections count the others as well."""
    jobs: int | None = None
    """Runs at a time, one thread each; if not given one per core, and with --ray as many as the cluster takes."""
    out: Path | None = None
    """Folder of the study; runs/study-NAME if not given. Re-run the same command to resume."""
    page: Path | None = None
    """Where the page of the documentation goes, with its figures and its data beside it; page.md in the folder if not given."""
    no_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run nothing: write results and page of the parts that are done."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A rehearsal of a minute or two, with few steps and seeds: everything runs, and nothing is judged."""


def study(words: list[str]) -> None:
    """Run a registered study: study NAME"""
    chosen: _Study = parse(_Study, "study", with_address(words), flags=True)
    cluster = chosen.cluster()
    from ..lab.study import load_study, run_study
    from ..lab.training import Interrupted

    registrations = load_study(chosen.name)
    if chosen.smoke:
        registrations = tuple(one.rehearsal() for one in registrations)
        if chosen.page is not None:
            raise InputError("--page is for the documentation, and the numbers of --smoke mean nothing; leave one of the two out")
    wanted = _wanted(registrations, chosen)
    out = chosen.out or Path(f"runs/study-{chosen.name}{'-smoke' if chosen.smoke else ''}")
    try:
        for one, names in wanted:
            if names and not chosen.no_run:
                run_study(one.of(names), _folder(one, out), jobs=chosen.jobs, cluster=cluster)
    except Interrupted as stopped:
        imports = [word for name in named_extensions() for word in ("--import", name)]
        raise Stopped(f"stopped; what is done is kept; re-run the same command to resume: foveal study {' '.join([*words, *imports])}".rstrip()) from stopped
    _write(registrations, out, chosen.page)


def _wanted(registrations: "tuple[Registration, ...]", chosen: _Study) -> "list[tuple[Registration, list[str]]]":
    """The parts to run of each registration."""
    if chosen.no_run and (chosen.only or chosen.jobs or chosen.ray):
        raise InputError("--no-run runs no part, and takes neither --only nor --jobs nor --ray; leave one of the two out")
    if len(set(chosen.only)) < len(chosen.only):
        raise InputError(f"each part can be given once, got {' '.join(chosen.only)}")
    known = [name for one in registrations for name in one.parts]
    for name in chosen.only:
        if name not in known:
            raise unknown(f"part of the study {chosen.name}", name, known)
    return [(one, [name for name in one.parts if not chosen.only or name in chosen.only]) for one in registrations]


def _folder(registration: "Registration", out: Path) -> Path:
    """Where a registration lives: the first in the folder of the study, what follows in folders of their own in it."""
    return out / registration.name if registration.follows else out


def _write(registrations: "tuple[Registration, ...]", out: Path, page: Path | None) -> None:
    from ..lab.study import collect, done_parts, write_page, write_results
    from ..lab.training import write_json

    done = [(done_parts(one, _folder(one, out)), _folder(one, out)) for one in registrations]
    if not any(one.parts for one, _ in done):
        raise InputError(f"no part of the study is done in {out}; run it without --no-run, or give another folder with --out")
    results: list[dict[str, Any]] = [write_results(one, folder) if one.parts else collect(one, folder) for one, folder in done]
    if page is not None:
        # what the figures and sentences of other pages are made of
        write_json(page.with_suffix(".json"), {"registrations": results})
    page = page or out / "page.md"
    write_page(results, page, out / "report.html")
    for one in (hypothesis for registration in results for hypothesis in registration["hypotheses"]):
        if one["outcome"] != "not judged":
            print(f"{one['id']}{' (primary)' if one['primary'] else ''}: {one['outcome']} (corrected p {one['corrected']:.3g}): {one['says']}")
    data = "\n".join(f"data:   {(folder / 'results.json').resolve()}" for one, folder in done if one.parts)
    print(f"\nreport: {(out / 'report.html').resolve()}\npage:   {page.resolve()}\n{data}")
