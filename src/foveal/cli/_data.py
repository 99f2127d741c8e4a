"""``foveal data list | fetch | show``."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from .._errors import InputError, unknown
from ._base import Nothing, parse

__all__ = ["data"]


@dataclass(frozen=True)
class _Data:
    what: Annotated[Literal["list", "fetch", "show"], tyro.conf.Positional] = "list"
    """list: every kind of data, and every package that can be fetched. fetch NAME: bring a package. show NAME: a sheet of a kind's samples with their truth."""


@dataclass(frozen=True)
class _Fetch:
    name: Annotated[str, tyro.conf.Positional]
    """A package out of `foveal data list`."""


def data(words: list[str]) -> None:
    """What data there are, and what they look like: data list | fetch NAME | show NAME"""
    parts = {"list": _data_list, "fetch": _data_fetch, "show": _data_show}
    if words and words[0] in parts:
        parts[words[0]](words[1:])
    elif words and not words[0].startswith("-"):
        raise unknown("word after data", words[0], parts)
    else:
        parse(_Data, "data", words)
        _data_list([])


def _data_list(words: list[str]) -> None:
    parse(Nothing, "data list", words)
    from ..catalogue import list_kinds, list_packages

    console = Console()
    table = Table("kind", "targets", "from", "here", "what it is", title="Kinds of data: foveal data show NAME", title_justify="left")
    for kind in list_kinds():
        table.add_row(kind.name, kind.targets, kind.comes_from, {True: "yes", False: "no", None: "–"}[kind.here], kind.about)
    console.print(table)
    table = Table("package", "by", "MB", "here", "licence", "what it is", title="Packages: foveal data fetch NAME", title_justify="left")
    for line in list_packages():
        table.add_row(line.name, line.client, f"{line.megabytes:g}", "yes" if line.here else "no", line.licence, line.about)
    console.print(table)


def _data_fetch(words: list[str]) -> None:
    from ..data import fetch

    print(fetch(parse(_Fetch, "data fetch", words).name))


def _data_show(words: list[str]) -> None:
    from ..catalogue import kind_named, write_samples

    if not words or words[0].startswith("-"):
        raise InputError("data show needs the name of a kind of data, such as digit-scenes; foveal data list names them")
    cls = kind_named(words[0])
    options: list[Any] = [
        ("data", Annotated[cls, tyro.conf.arg(name="")]),
        ("out", Path, field(default=Path("."))),
        ("split", Literal["train", "val", "test"], field(default="train")),
        ("count", int, field(default=6)),
    ]
    chosen = parse(make_dataclass("Show", options, kw_only=True), f"data show {words[0]}", words[1:])
    print("\n".join(map(str, write_samples(chosen.data, chosen.out, split=chosen.split, count=chosen.count))))
