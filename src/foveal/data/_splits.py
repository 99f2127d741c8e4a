"""Which folders are splits and which are classes. Nothing is guessed: where a name may be either, the set is refused."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .._errors import InputError
from ._foreign import few
from ._walk import Found, Passed, files_below, folders_in, keep_apart

__all__ = ["SPLITS", "Layout", "class_files", "different_names", "split_of", "splits_in"]

SPLITS = ("train", "val", "test")
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev", "devel", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tests"), "test"),
}
_FILLER = "(?:set|data|split|images|imgs|image|img|folder|files|part|seg|cls)*"
_NAME = re.compile(f"{_FILLER}({'|'.join(_WORDS)}){_FILLER}")


def split_of(name: str) -> str | None:
    """The split that a folder or list is named for, in any case: ``Training``, ``VALID``, ``test_set``, ``train2017``; None if for none."""
    letters = "".join(char for char in name.casefold() if char.isalpha())
    found = _NAME.fullmatch(letters)
    return _WORDS[found[1]] if found else None


@dataclass
class Layout:
    """Folders that lie in a root, told apart."""

    splits: dict[str, Path] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)

    def named(self, split: str) -> str:
        """A split as the set calls it."""
        return self.splits[split].name

    @property
    def whole(self) -> bool:
        """Whether there is a split to train with and one that can be kept from it."""
        return "train" in self.splits and len(self.splits) > 1


def splits_in(root: Path, passed: Passed, what: str) -> Layout:
    """Split folders of a root, and others.

    Args:
        root: where to look.
        passed: is told of hidden folders.
        what: what would lie under the root if it had no splits, for messages.

    Raises:
        ValueError: two folders of one split; folders of splits beside others; a split to train with alone, or none.
    """
    layout = Layout()
    for folder in folders_in(root, passed):
        split = split_of(folder.name)
        if split is None:
            layout.others.append(folder)
        elif split in layout.splits:
            raise InputError(f"{root} has {layout.named(split)}/ and {folder.name}/, which both name the {split} split; keep one, or rename the other")
        else:
            layout.splits[split] = folder
    layout.splits = {split: layout.splits[split] for split in SPLITS if split in layout.splits}
    if not layout.splits or layout.whole:
        return layout
    there = next(iter(layout.splits.values())).name
    missing = "val" if "train" in layout.splits else "train"
    if layout.others:
        names = few([folder.name for folder in layout.others], 5)
        raise InputError(
            f"{root} has {there}/ but no {missing}/, and beside it {names}: nobody can tell which are splits and which are {what}. "
            f"Put all of them under {root / 'train'} and {root / 'val'}, or rename {there} if it is no split"
        )
    raise InputError(f"{root} has {there}/ but no {missing}/; add {root / missing}, or put the {what} directly under {root} to have them split")


def different_names(names: Iterable[str], where: Path) -> None:
    """Whether no two names are one but for case, or for how accents are written.

    Raises:
        ValueError: two are.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise InputError(f"{where} has the classes {other!r} and {name!r}, which differ in case or in how accents are written alone; merge or rename them")


def class_files(folder: Path, classes: Sequence[Path], endings: Iterable[str], passed: Passed, unit: Callable[[Path], bool] | None = None) -> dict[str, Found]:
    """Files of each class folder.

    Raises:
        ValueError: classes whose names hardly differ; splits inside of classes; a file in two classes; a class most of which is in a form that is not read.
    """
    names = [child.name for child in classes]
    different_names(names, folder)
    if len(names) > 1 and all(split_of(name) for name in names):
        raise InputError(f"{folder} has {few(names)} in the place of classes, which are names of splits; expected {folder}/CLASS/*")
    out: dict[str, Found] = {}
    for child in classes:
        own = Passed()
        found = files_below(child, endings, own, unit)
        inside = sorted({split for path in found.files for part in path.relative_to(child).parts[:-1] if (split := split_of(part))})
        if inside:
            raise InputError(f"{child} holds folders of splits ({', '.join(inside)}); expected splits above classes: {folder.parent}/train/{child.name}/*")
        if found.files:
            own.check(len(found.files), f"class {child.name!r}, {child}")
        passed.merge(own)
        parts = sorted({path.relative_to(child).parts[0] for path in found.files if path.parent != child})
        if unit is None and len(parts) > 1 and all(path.parent != child for path in found.files):
            passed.remarks.append(f"the class {child.name!r} of {folder} is made of the folders {few(parts, 5)}; if these are classes, put them under {folder}")
        out[child.name] = found
    keep_apart(out)
    return out
