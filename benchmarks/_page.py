"""Sections of docs/benchmarks.md, one a benchmark: what was not run anew stays as it is."""

from collections.abc import Iterable
from datetime import date
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import torch

from foveal._machine import processor

from ._harness import THREADS, Row, line

__all__ = ["HEAD", "PAGE", "page", "section"]

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `python -m benchmarks --write`, each benchmark in a process of its own; each section says when and where.

Each line compares two sides in one run. Both were first shown to compute the same; then they took turns, and the ratio is the median over the turns.
On a shared machine ratios move by a few per cent from run to run, and times by much more.
"""


def section(name: str, rows: list[Row]) -> str:
    """What a benchmark is about, as its file says, and what it gave."""
    table = ["| what | size | ours | other side | ratio | target | met |", "|---|---|---|---|---|---|---|", *map(line, rows)]
    where = f"{processor()}, {THREADS} threads, torch {torch.__version__}, float32 unless a line says otherwise"
    made = f"`python -m benchmarks --write {name}`, {date.today()}: {where}."
    return "\n\n".join([f"## {name}", getdoc(import_module(f"benchmarks.{name}")) or "", "\n".join(table), made]) + "\n"


def page(head: str, done: dict[str, str], old: str, titles: Iterable[str]) -> str:
    """A page of sections, in the order of their titles: these are new, others that it had are kept, those of no title are dropped."""
    kept = {text.partition("\n")[0]: f"## {text.strip()}\n" for text in old.split("\n## ")[1:]}
    sections = [done.get(title, kept.get(title)) for title in titles]
    return "\n".join([head, *(text for text in sections if text)])
