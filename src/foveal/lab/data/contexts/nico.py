"""NICO by the protocol of CaaM: ten animals, each mostly in one context, and tested in all.

Data       He et al., "Towards Non-I.I.D. Image Classification", 2021 (arXiv 1906.02899): the animals.
Protocol   Wang et al., ICCV 2021 (arXiv 2108.08782); contexts and their order from the configuration files of Wangt-CN/CaaM.
           Of the i-th of a class's seven training contexts, ⌊n · 0.02^(i/6)⌋ of its n images are kept; validation and test have contexts besides.
Layouts    ``multi_classification/{train,val,test}/CLASS_CONTEXT_INDEX.jpg`` with numbers and ``label_file/*.json``, as the authors share the set, with their
           division; or ``CLASS/CONTEXT/*.jpg`` as the set comes, which is divided here.
Differs    The authors enumerate a folder as the system happens to list it, and draw from a global random number generator: their 2,841 training images are
           not known. Ours are drawn for each class and context by itself, from sorted names and the seed. Where the set is divided here, every class and
           context gives 13 images to validation and as many to test: the authors' parts have 1,300 images each, of ten classes with ten contexts.
"""

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...._errors import InputError
from .._bundle import Data, DataBundle, register_data, seed_of
from .._foreign import read_json
from .._image import EXTENSIONS, rgb
from .._splits import different_names
from .._walk import Passed, folders_in
from ._pictures import Picture, Pictures, checked, pictures_below, readable, transforms_of
from .digits import ContextedDigits

__all__ = ["NICO", "NICO_CONTEXTS"]

NICO_CONTEXTS: dict[str, tuple[str, ...]] = {
    "bear": ("in_forest", "black", "brown", "eating_grass", "in_water", "lying", "on_snow"),
    "bird": ("on_ground", "in_hand", "on_branch", "flying", "eating", "on_grass", "standing"),
    "cat": ("on_snow", "at_home", "in_street", "walking", "in_river", "in_cage", "eating"),
    "cow": ("in_river", "lying", "standing", "eating", "in_forest", "on_grass", "on_snow"),
    "dog": ("on_grass", "in_water", "in_cage", "eating", "on_beach", "lying", "running"),
    "elephant": ("in_zoo", "in_circus", "in_forest", "in_river", "eating", "standing", "on_grass"),
    "horse": ("on_beach", "aside_people", "running", "lying", "on_grass", "on_snow", "in_forest"),
    "monkey": ("sitting", "walking", "in_water", "on_snow", "in_forest", "eating", "on_grass"),
    "rat": ("at_home", "in_hole", "in_cage", "in_forest", "in_water", "on_grass", "eating"),
    "sheep": ("eating", "on_road", "walking", "on_snow", "on_grass", "lying", "in_forest"),
}
"""Training contexts of each class, the commonest first."""

_RAREST = 0.02
_MEAN, _STD = (0.524, 0.523, 0.449), (0.219, 0.218, 0.226)


@register_data
@dataclass(frozen=True, kw_only=True)
class NICO(Data):
    """NICO's animals, long-tailed over contexts in training, and tested in all of them.

    Probes: ``majority``, ``minor`` and ``unseen``, the test in the commonest training context of a class, in the rarer ones, and in those that its training
    did not have.

    Raises:
        ValueError: the folder is not there or laid out otherwise; a class or a training context is missing; a file of contexts is none.
    """

    root: Path
    """Folder of the set."""
    contexts: Path | None = None
    """A JSON object of classes, each with its training contexts, the commonest first; the authors' if None."""
    img_size: int = 224
    """Side of the images in pixels, after cropping."""
    held_out: int = 13
    """Images of each class and context that go to validation, and to test, where the set is divided here."""
    check: bool = True
    """Decode every image once at the start, to leave out the broken ones."""
    seed: int = 0
    """Decides how the set is divided, where it is divided here."""

    def __post_init__(self) -> None:
        if self.img_size < 8 or self.held_out < 1:
            raise InputError(f"expected img_size of at least 8 and held_out of at least 1, got {self.img_size} and {self.held_out}")

    def load(self) -> DataBundle:
        order = self._order()
        notes: list[str] = []
        passed = Passed()
        parts = self._shared(order, passed) if (Path(self.root) / "multi_classification").is_dir() else self._divided(order, notes, passed)
        parts["train"] = self.long_tailed(parts["train"], order)
        if self.check:
            parts = {name: readable(pictures, notes) for name, pictures in parts.items()}
        classes = sorted(order)
        train, evaluate = self._transforms()
        root = Path(self.root)
        splits = {name: Pictures(pictures, classes, train if name == "train" else evaluate, root, augments=name == "train") for name, pictures in parts.items()}
        for name, split in splits.items():
            checked(split, f"{name} of {root}", [*passed.notes(), *notes])
        rank = {(label, context): n for label, contexts in order.items() for n, context in enumerate(contexts)}
        grouped: dict[str, list[Picture]] = {"majority": [], "minor": [], "unseen": []}
        for picture in parts["test"]:
            n = rank.get((picture.label, picture.context))
            grouped["unseen" if n is None else "minor" if n else "majority"].append(picture)
        return DataBundle(
            train=splits["train"],
            val=splits["val"],
            test=splits["test"],
            classes=classes,
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(rgb(image)),
            notes=notes + passed.notes(),
            probes={name: Pictures(pictures, classes, evaluate, root) for name, pictures in grouped.items() if pictures},
        )

    def long_tailed(self, pictures: list[Picture], order: dict[str, tuple[str, ...]]) -> list[Picture]:
        """The protocol's part of the training images: of the i-th context ⌊n · 0.02^(i/6)⌋, drawn from sorted names."""
        members = _by_context(pictures)
        kept: list[Picture] = []
        for label, contexts in order.items():
            for n, context in enumerate(contexts):
                found = members.get((label, context), [])
                if not found:
                    raise InputError(f"{self.root} has no training images of {label} {context}; it has {_met(members, label)}")
                count = int(len(found) * _RAREST ** (n / (len(contexts) - 1))) if len(contexts) > 1 else len(found)
                kept += random.Random(seed_of("nico", self.seed, label, context)).sample(found, count)
        return sorted(kept)

    def smoke_data(self) -> Data:
        return ContextedDigits().smoke_data()

    def _order(self) -> dict[str, tuple[str, ...]]:
        if self.contexts is None:
            return NICO_CONTEXTS
        path = Path(self.contexts)
        if not path.is_file():
            raise InputError(f"cannot read the contexts from {path}: there is no such file")
        given = read_json(path)
        good = isinstance(given, dict) and len(given) > 1
        if not good or not all(isinstance(names, list) and names and all(isinstance(name, str) for name in names) for names in given.values()):
            raise InputError(f'{path} must be an object of classes with lists of contexts, the commonest first, such as {{"dog": ["on_grass", "in_water"]}}')
        return {_plain(label): tuple(map(_plain, names)) for label, names in given.items()}

    def _shared(self, order: dict[str, tuple[str, ...]], passed: Passed) -> dict[str, list[Picture]]:
        """As the authors share it: names of files are numbers of class and context, and a number."""
        root = Path(self.root)
        files = {kind: root / "label_file" / name for kind, name in (("label", "Animal_name2label.json"), ("context", "Context_name2label.json"))}
        missing = [str(file) for file in files.values() if not file.exists()]
        if missing:
            raise InputError(f"{root} has multi_classification but not {' and '.join(missing)}, which say what the numbers in names of files mean")
        named = {kind: _numbers(file) for kind, file in files.items()}
        parts: dict[str, list[Picture]] = {}
        for part in ("train", "val", "test"):
            folder = root / "multi_classification" / part
            if not folder.is_dir():
                raise InputError(f"{folder} does not exist; expected train, val and test in {folder.parent}")
            parts[part] = []
            for path in pictures_below(folder, passed).files:
                label, _, rest = path.stem.partition("_")
                context = rest.partition("_")[0]
                if label not in named["label"] or context not in named["context"]:
                    raise InputError(f"{path} is not named CLASS_CONTEXT_INDEX with numbers out of {files['label'].parent}")
                parts[part].append(Picture(named["label"][label], named["context"][context], path))
        return {part: [picture for picture in pictures if picture.label in order] for part, pictures in parts.items()}

    def _divided(self, order: dict[str, tuple[str, ...]], notes: list[str], passed: Passed) -> dict[str, list[Picture]]:
        """``CLASS/CONTEXT/*``: some of each class and context to validation and to test, the rest of the training contexts to training."""
        root = Path(self.root)
        if not root.is_dir():
            raise InputError(f"{root} is no folder; expected NICO there, CLASS/CONTEXT/*.jpg or multi_classification and label_file")
        children = folders_in(root, passed)
        different_names([child.name for child in children], root)
        folders = {_plain(child.name): child for child in children}
        if absent := sorted(set(order) - set(folders)):
            raise InputError(f"{root} has no folder for {', '.join(absent)}; it has {', '.join(sorted(folders)) or 'none'}; NICO's animals have a folder each")
        parts: dict[str, list[Picture]] = {"train": [], "val": [], "test": []}
        for label in sorted(order):
            for folder in folders_in(folders[label], passed, EXTENSIONS):
                context = _plain(folder.name)
                found = [Picture(label, context, path) for path in pictures_below(folder, passed).files]
                # one image at least is left to train on
                each = min(self.held_out, (len(found) - 1) // 2)
                drawn = random.Random(seed_of("nico division", self.seed, label, context)).sample(found, 2 * each)
                parts["val"] += sorted(drawn[:each])
                parts["test"] += sorted(drawn[each:])
                if context in order[label]:
                    parts["train"] += sorted(set(found) - set(drawn))
        notes.append("the division in training, validation and test is not the authors', and numbers are not comparable to theirs")
        return parts

    def _transforms(self) -> tuple[Any, Any]:
        v2, side = transforms_of(), self.img_size
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
        vary = [v2.Resize(side, antialias=True), v2.RandomCrop(side, padding=side // 14), v2.RandomHorizontalFlip(), v2.RandomRotation(15)]
        evaluate: Any = v2.Compose([v2.Resize((side, side), antialias=True), *finish])
        return v2.Compose([*vary, *finish]), evaluate


def _by_context(pictures: list[Picture]) -> dict[tuple[str, str], list[Picture]]:
    found: defaultdict[tuple[str, str], list[Picture]] = defaultdict(list)
    for picture in sorted(pictures):
        found[picture.label, picture.context].append(picture)
    return dict(found)


def _met(members: dict[tuple[str, str], list[Picture]], label: str) -> str:
    return ", ".join(context for own, context in members if own == label) or "none of that class"


def _numbers(file: Path) -> dict[str, str]:
    """Names by number, out of an object of numbers by name."""
    given = read_json(file)
    if not isinstance(given, dict) or any(isinstance(number, bool) or not isinstance(number, int) for number in given.values()):
        raise InputError(f'{file} must be an object of names with their numbers, such as {{"cat": 4, "dog": 0}}')
    if len(set(given.values())) < len(given):
        raise InputError(f"{file} gives one number to two names")
    return {str(number): _plain(name) for name, number in given.items()}


def _plain(name: str) -> str:
    """One spelling for ``in water``, ``in-water`` and ``In_Water``."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")
