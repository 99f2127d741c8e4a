"""Which folders are splits and which are classes. Nothing is guessed: where a name may be either, the set is refused."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..._errors import InputError
from ._foreign import few
from ._walk import Found, Passed, files_below, folders_in, keep_apart

__all__ = ["SPLITS", "Layout", "class_files", "different_names", "like_splits", "split_of", "splits_in"]

SPLITS = ("train", "val", "test")
_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev", "devel", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "tst"), "test"),
}
_FILLER = "(?:set|data|split|images|imgs|image|img|folder|files|part|seg|cls|list)*"
_NAME = re.compile(f"{_FILLER}({'|'.join(_WORDS)}){_FILLER}")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_of(name: str) -> str | None:
    """The split that a folder or list is named for, in any case: ``Training``, ``VALID``, ``test_set``, ``train2017``; None if for none."""
    letters = "".join(char for char in name.casefold() if char.isalpha())
    found = _NAME.fullmatch(letters)
    return _WORDS[found[1]] if found else None


def like_splits(names: Iterable[str]) -> bool:
    """Whether all of some names have the word of a split in them, and one trains and another does not: ``X_train`` and ``X_test``, ``trainA`` and ``testA``."""
    found = []
    for name in names:
        words = re.split(r"[\W\d_]+", _CAPITAL.sub(" ", name).casefold())
        found.append({_WORDS[word] for word in words if word in _WORDS})
    return bool(found) and all(found) and {"train"} in found and any(splits != {"train"} for splits in found)


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


def class_files(
    folder: Path, classes: Sequence[Path], endings: Iterable[str], passed: Passed, unit: Callable[[Path], bool] | None = None, *, whole: bool = False
) -> dict[str, Found]:
    """Files of each class folder.

    Args:
        folder: that the class folders lie in.
        classes: these folders.
        endings: of the files.
        passed: is told what is passed over.
        unit: whether a folder below is one thing.
        whole: the folder is that of the set and names no split, so that its folders may be splits under other names.

    Raises:
        ValueError: classes whose names hardly differ, or are those of splits; classes made of the same folders, which may be splits; splits inside of classes;
            a file in two classes; a class most of which is in a form that is not read.
    """
    names = [child.name for child in classes]
    different_names(names, folder)
    if len(names) > 1 and (all(split_of(name) for name in names) or like_splits(names)):
        below = ", or the splits named train, val and test" if whole else ""
        raise InputError(f"{folder} has {few(names)} in the place of classes, which are names of splits; expected {folder}/CLASS/*{below}")
    out: dict[str, Found] = {}
    made_of: dict[str, list[str]] = {}
    for child in classes:
        own = Passed()
        found = files_below(child, endings, own, unit)
        inside = sorted({split for path in found.files for part in path.relative_to(child).parts[:-1] if (split := split_of(part))})
        if inside:
            if whole and len(classes) == 1:
                raise InputError(f"{folder} holds {child.name}/ alone, and that the splits {', '.join(inside)}; give {child} in its place")
            above = folder if whole else folder.parent
            raise InputError(f"{child} holds folders of splits ({', '.join(inside)}); expected splits above classes: {above}/train/{child.name}/*")
        if found.files:
            own.check(len(found.files), f"class {child.name!r}, {child}")
        passed.merge(own)
        parts = sorted({path.relative_to(child).parts[0] for path in found.files if path.parent != child})
        if unit is None and len(parts) > 1 and all(path.parent != child for path in found.files):
            passed.remarks.append(f"the class {child.name!r} of {folder} is made of the folders {few(parts, 5)}; if these are classes, put them under {folder}")
            made_of[child.name] = parts
        out[child.name] = found
    if whole and len(names) > 1 and len(made_of) == len(names) and len({tuple(parts) for parts in made_of.values()}) == 1:
        raise InputError(
            f"{few(names, 5)} of {folder} hold the same folders each, {few(made_of[names[0]], 5)}: nobody can tell whether they are splits or classes. "
            f"Name splits train, val and test; if they are classes, put their files into them, or all of them under {folder}/train and {folder}/val"
        )
    keep_apart(out)
    return out
