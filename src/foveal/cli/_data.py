"""``foveal data list | fetch | show | regions``."""

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._errors import InputError, unknown
from ._entries import Entry, entry_lines, fits, terminal_width
from ._options import parse, plain_words, summary

__all__ = ["data"]


@dataclass(frozen=True)
class _Data:
    """What data there are, and what they look like."""

    what: Annotated[Literal["list", "fetch", "show", "regions"], tyro.conf.Positional] = "list"
    """list [WORD …]: every kind of data, and every package, or those that fit. fetch NAME: bring a package. show NAME: a sheet of a kind's samples with
    their labels. regions FILE: shards of a TSV of regions."""


@dataclass(frozen=True)
class _Listed:
    """Every kind of data, and every package that can be fetched; or those that fit."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[WORD …]")] = ()
    """Each must be in the name, in what is learned, or in the description. * and ? make a pattern of a name."""


@dataclass(frozen=True)
class _Fetch:
    """Bring a package of data onto this machine."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A package out of `foveal data list`."""


@dataclass(frozen=True, kw_only=True)
class _Show:
    out: Path = Path(".")
    """Folder for the sheet."""
    split: Literal["train", "val", "test"] = "train"
    """Split that the samples are of."""
    count: int = 6
    """Samples on the sheet, the first of the split."""


@dataclass(frozen=True)
class _Regions:
    """Make shards of a TSV of regions, which take less room and are read without decoding."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A TSV of LXMERT's features, such as train2014_obj36.tsv."""
    out: Path
    """Folder for the shards."""
    half: bool = False
    """Keep features in half precision: half the room, and about three digits."""
    per_shard: int = 1000
    """Images of a shard; memory is needed for one."""


def data(words: list[str]) -> None:
    """What data there are, and what they look like: data list [WORD …] | fetch NAME | show NAME | regions FILE"""
    parts = {"list": _data_list, "fetch": _data_fetch, "show": _data_show, "regions": _data_regions}
    if words and words[0] in parts:
        parts[words[0]](words[1:])
    elif words and not words[0].startswith("-"):
        raise unknown("word after data", words[0], parts)
    else:
        parse(_Data, "data", words)
        _data_list([])


def _data_list(words: list[str]) -> None:
    asked: tuple[str, ...] = parse(_Listed, "data list", words).words
    from ..lab.catalogue import list_kinds, list_packages

    here = {True: ", here", False: ", not here", None: ""}
    kinds = [Entry(line.name, line.targets, f"{plain_words(line.about)} From: {line.comes_from}{here[line.here]}.") for line in list_kinds()]
    packages = [Entry(line.name, "", f"{line.about}. {_brought(line)}, {here[line.here is not None][2:]}.") for line in list_packages()]
    titles = {"Kinds of data, by what is learned: foveal data show NAME": kinds, "Packages: foveal data fetch NAME": packages}
    found = {title: [entry for entry in entries if all(fits(entry, word) for word in asked)] for title, entries in titles.items()}
    if not any(found.values()):
        raise InputError(f"no kind of data and no package has {' and '.join(map(repr, asked))} in its name or description; foveal data list shows all")
    width = terminal_width()
    for title, entries in found.items():
        if entries:
            print("\n".join(entry_lines(title, sorted(entries, key=lambda entry: entry.group), width, full=True)))


def _brought(line: Any) -> str:
    return f"{line.megabytes:g} MB by {line.client}, {line.license}"


def _data_fetch(words: list[str]) -> None:
    from ..lab.data import fetch

    print(fetch(parse(_Fetch, "data fetch", words).name))


def _data_show(words: list[str]) -> None:
    from ..lab.catalogue import kind_named, write_samples

    if not words or words[0].startswith("-"):
        raise InputError("data show needs the name of a kind of data, such as digit-scenes; foveal data list names them")
    cls = kind_named(words[0])
    # a dataclass whose fields are the kind's options beside those of the sheet
    kind = make_dataclass("Show", [("data", Annotated[cls, tyro.conf.arg(name="")])], bases=(_Show,), kw_only=True, frozen=True)
    chosen = parse(kind, f"data show {words[0]}", words[1:], about=f"Write a sheet of samples with their labels, NAME-SPLIT.png and .html. {summary(cls)}")
    print("\n".join(map(str, write_samples(chosen.data, chosen.out, split=chosen.split, count=chosen.count))))


def _data_regions(words: list[str]) -> None:
    from ..lab.data.regions import RegionTsv, write_regions

    asked = parse(_Regions, "data regions", words)
    written = write_regions(RegionTsv(asked.file), asked.out, half=asked.half, per_shard=asked.per_shard)
    print("\n".join(map(str, written)))
