"""Folders of other people, gone through once: what is taken, and how much was passed over, and why.

Hidden files and folders, and those that systems and browsers leave behind, are passed over. Links to folders are followed, each real folder once. Files with
other endings are passed over. All of it is counted and said in one note; where most of a class would be passed over, the set is refused.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..._errors import InputError
from ._foreign import few

__all__ = ["Found", "Passed", "check_kept", "files_below", "folders_in", "is_hidden", "joined", "keep_apart"]

_LEFT_BEHIND = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "#recycle", "__pycache__"}
_BESIDE = {
    *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".rst", ".html", ".yaml", ".yml", ".log", ".db", ".ini", ".cfg", ".toml", ".xmp", ".aae"),
    *(".pdf", ".py", ".sh", ".ipynb", ".sha1", ".sha256", ".md5", ".lnk", ".url"),
}
"""Endings of what lies beside pictures and is none: passed over and counted, and no reason to refuse a set."""
_REMEDY = dict.fromkeys((".heic", ".heif", ".hif"), "convert HEIC to JPEG or PNG")


@dataclass
class Passed:
    """What was passed over while a set was listed."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    """Of these, files that may be what was looked for, in a form that is not read."""
    remarks: list[str] = field(default_factory=list)
    """What else a reader of the results must know of how folders were understood."""

    def add(self, why: str, example: object, *, lost: bool = False, times: int = 1) -> None:
        self.counts[why] += times
        self.first.setdefault(why, "/".join(Path(str(example)).parts[-2:]))
        self.lost += times * lost

    def ending(self, name: str, example: object) -> None:
        """A file with an ending that is not read."""
        ending = os.path.splitext(name)[1].lower()
        remedy = f" ({_REMEDY[ending]})" if ending in _REMEDY else ""
        self.add(f"ending in {ending}{remedy}" if ending else "without an ending", example, lost=ending not in _BESIDE)

    def merge(self, other: "Passed") -> None:
        self.counts.update(other.counts)
        self.first = {**other.first, **self.first}
        self.lost += other.lost
        self.remarks += other.remarks

    def said(self) -> str:
        """Counts and reasons, empty if nothing was passed over."""
        total = sum(self.counts.values())
        reasons = few([f"{count} {why}, such as {self.first[why]}" for why, count in self.counts.most_common()])
        return f"{total} {'entries were' if total > 1 else 'entry was'} passed over: {reasons}" if total else ""

    def notes(self) -> list[str]:
        return [*self.remarks, *([self.said()] if self.counts else [])]

    def check(self, taken: int, what: str) -> None:
        """Whether most of it was taken.

        Raises:
            ValueError: more was passed over than taken.
        """
        if self.lost > taken:
            raise InputError(
                f"{what}: most of it would be left out, {self.lost} of {self.lost + taken}. {self.said()}. Convert or rename them, or take them out"
            )


@dataclass
class Found:
    """Files below a folder, in the order of their paths, with where each of them really is."""

    files: list[Path] = field(default_factory=list)
    real: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is there for a system and not for people."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def folders_in(root: Path, passed: Passed, loose: Iterable[str] = ()) -> list[Path]:
    """Folders in a folder, in the order of their names, hidden ones passed over.

    Args:
        root: where to look.
        passed: is told what is passed over.
        loose: endings of files that should lie in one of these folders.

    Raises:
        ValueError: it cannot be listed.
    """
    found, wanted = [], frozenset(loose)
    for entry in _entries(root):
        if is_hidden(entry.name):
            passed.add("hidden or left behind by a system", entry.path)
        elif _is_folder(entry):
            found.append(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in wanted:
            passed.add("outside of the class folders", entry.path, lost=True)
    return sorted(found)


def files_below(folder: Path, endings: Iterable[str], passed: Passed, unit: Callable[[Path], bool] | None = None) -> Found:
    """Files with these endings in a folder and the folders below it.

    Args:
        folder: where to look.
        endings: with the dot, in small letters.
        passed: is told what is passed over.
        unit: whether a folder below is one thing, which is taken itself and not looked into.

    Raises:
        ValueError: a folder cannot be listed.
    """
    wanted = frozenset(endings)
    start = os.path.realpath(folder)
    # a link to what this folder lies in leads round in a circle
    seen = {start, *map(str, Path(start).parents)}
    plain: list[tuple[Path, str]] = []
    links: list[tuple[Path, str]] = []
    queue = [(folder, start)]
    linked: list[tuple[Path, str]] = []
    while queue or linked:
        # folders that lie here come before links to them
        here, real = queue.pop() if queue else linked.pop(0)
        if here != folder and real in seen:
            passed.add("links to a folder that is read already", here)
            continue
        seen.add(real)
        for entry in _entries(here):
            path = Path(entry.path)
            if is_hidden(entry.name):
                passed.add("hidden or left behind by a system", path)
            elif _is_folder(entry):
                where = os.path.realpath(path) if entry.is_symlink() else os.path.join(real, entry.name)
                if unit is not None and unit(path):
                    (links if entry.is_symlink() else plain).append((path, where))
                else:
                    (linked if entry.is_symlink() else queue).append((path, where))
            elif path.suffix.lower() not in wanted:
                passed.ending(entry.name, path)
            elif not _is_file(entry) and path.exists():
                # to open a pipe is to wait for whoever writes into it
                passed.add("no regular file", path, lost=True)
            elif entry.is_symlink():
                links.append((path, os.path.realpath(path)))
            else:
                plain.append((path, os.path.join(real, entry.name)))
    return _without_doubles(plain, links, passed)


def _without_doubles(plain: list[tuple[Path, str]], links: list[tuple[Path, str]], passed: Passed) -> Found:
    there = {real for _, real in plain}
    kept = list(plain)
    for path, real in sorted(links):
        if real in there:
            passed.add("links to what is taken already", path)
        else:
            there.add(real)
            kept.append((path, real))
    kept.sort()
    return Found([path for path, _ in kept], [real for _, real in kept])


def check_kept(kept: int, broken: Sequence[str], what: object) -> None:
    """Whether most of what lies in a folder could be read.

    Args:
        kept: how many could.
        broken: those that could not, each with its reason.
        what: of which they are.

    Raises:
        ValueError: more were broken than kept.
    """
    if len(broken) > kept:
        raise InputError(
            f"{what}: most of it would be left out, {len(broken)} of {len(broken) + kept} cannot be read: {few(broken, 5)}. Get them anew, or take them out"
        )


def keep_apart(parts: Mapping[str, Found]) -> None:
    """Whether no file, and no folder that is one thing, lies in two parts, be they classes or splits.

    Raises:
        ValueError: one does, by a link.
    """
    owner: dict[str, str] = {}
    for name, found in parts.items():
        for path, real in zip(found.files, found.real, strict=True):
            other = owner.setdefault(real, name)
            if other != name:
                raise InputError(
                    f"{path} is in {name} and, by a link, in {other}; a file must be in one of them only: remove the link, or copy what is meant twice"
                )


def joined(parts: Iterable[Found]) -> Found:
    """Files of several classes, as those of one split."""
    every = list(parts)
    return Found([file for one in every for file in one.files], [real for one in every for real in one.real])


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror}") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    # a link that leads to itself
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # a link that leads to itself
    except OSError:
        return False
