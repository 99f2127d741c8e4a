"""docs/torture.md, made of docs/torture.json alone."""

from collections.abc import Sequence
from typing import Any

__all__ = ["page"]

HEAD = """\
# Faults on purpose

`make torture` kills trainings, comparisons and studies at random moments, fills disks, takes folders away, sets the clock, and damages files of every kind
that is read. It counts what came of it. This page and [torture.json](https://github.com/foveal/foveal/blob/main/docs/torture.json) are written by that command
(`python -m tests.torture --write`); a short part of it runs with the other tests. What a file can do, and what is never executed: [security](security.md).

A run that was interrupted counts as survived if it goes on by the same command and ends with what the same run leaves that nothing interrupted: published
weights, weights, their average and optimizer's state of the newest checkpoint, metrics and history, bit for bit; if no checkpoint was damaged by it; if files
of the user's beside it are as they were; and if nothing half written is left. A bad file counts as refused if it is one line, without a traceback, that names
the file. It counts as wrong if a process, a shell or a socket is opened while a file is read, or a file of the set is touched. A flipped bit of a pixel or a
word is another pixel or word; what no reader could tell is counted apart, and so is what is left out of a set and named in its notes.
"""


def page(campaigns: dict[str, dict[str, Any]], missing: Sequence[str] = ()) -> str:
    lines = [HEAD, *_totals(campaigns), ""]
    if missing:
        lines += [f"Campaigns that were not run for this report: {', '.join(missing)}.", ""]
    for name, one in campaigns.items():
        lines += [f"## {name}", "", one["about"], "", f"{one['tried']} tried in {one['seconds']} s, {one['date']}, {one['machine']}.{_stopped(one)}", ""]
        columns = sorted({column for counts in one["kinds"].values() for column in counts}, key=lambda column: (column == "wrong", column))
        lines += [f"| what | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
        lines += [f"| {kind} | {' | '.join(str(counts.get(column, '')) for column in columns)} |" for kind, counts in one["kinds"].items()]
        lines += ["", *(f"- **wrong:** {_plain(row['kind'])}, {_plain(row['what'])}: {_plain(row['fault'])}" for row in one["wrong"])]
    return "\n".join(lines).rstrip() + "\n"


def _stopped(one: dict[str, Any]) -> str:
    return " It was ended by a limit of time; the whole of it tries more." if one.get("stopped") else ""


def _totals(campaigns: dict[str, dict[str, Any]]) -> list[str]:
    tried = sum(one["tried"] for one in campaigns.values())
    wrong = sum(len(one["wrong"]) for one in campaigns.values())
    counted: dict[str, int] = {}
    for one in campaigns.values():
        for counts in one["kinds"].values():
            for name, number in counts.items():
                counted[name] = counted.get(name, 0) + number
    shown = ", ".join(f"{number:,} {name}" for name, number in sorted(counted.items(), key=lambda item: -item[1]))
    return [f"In all {tried:,} trials: {shown}. {'Nothing was wrong.' if not wrong else f'{wrong} were wrong, and are listed below.'}"]


def _plain(text: str) -> str:
    kept = " ".join(text.split())[:400]
    return kept.translate({ord(letter): f"\\{letter}" for letter in "\\`*_<>[]|{}"})
