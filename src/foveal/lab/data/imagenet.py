"""ImageNet-1K, and every set of photographs in one of its two forms: folders of classes, or tar shards.

Folders  ``root/train/CLASS/*.JPEG`` and ``root/val/CLASS/*.JPEG``; classes are the folders in the order of their names, as everybody numbers ImageNet's.
Shards   ``*train*.tar`` and ``*val*.tar`` under ``root``, or ``train/*.tar`` and ``val/*.tar``; members ``KEY.jpg`` and ``KEY.cls``. Classes are numbers,
         unless ``root/classnames.txt`` names them, one a line.

Either way every image can be read at any time, from a disk that allows it: training shuffles over all of them and goes on after an interruption as if there had
been none, on any number of processes. See ``_shards.py`` for why shards are not streamed.

Augmentation is timm's, which the published trainings used: crop, mirror, RandAugment, erasing. It draws from Python's and NumPy's random numbers; here these
are seeded from torch's for every image. Photographs are decoded whole. JPEG's cheap decoding at half the size is left alone: it gives other pixels, and a crop
of a usual photograph, 500 by 375, is too small for it.
"""

import os
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._errors import InputError, missing_extra
from ._bundle import Data, DataBundle, register_data, seed_of
from ._foreign import few, lines_of, read_text
from ._image import PictureError, open_rgb, rgb
from ._listing import Listing, list_classes, shared_files
from ._miniature import miniature
from ._shards import Shards, index_shards
from ._splits import split_of
from ._walk import Passed, folders_in, is_hidden
from .digits import load_digits

__all__ = ["ImageNet"]

_NORMALIZATION: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation."""
_CLASSNAMES = "classnames.txt"
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|zip|7z|rar|tar\.\w+)$")
# timm passes over a section without a number, such as mnine, as if it were not there
_AUGMENT = re.compile(r"(rand|augmix|originalr?|v0r?|3a)(-(t[a-z_]+|[a-z]+\d[\d.]*))*")
_AUGMENT_EXAMPLES = "expected such as rand-m9-mstd0.5-inc1, augmix-m3-w3, original, v0 or 3a"


@register_data
@dataclass(frozen=True, kw_only=True)
class ImageNet(Data):
    """ImageNet, or any set in its two forms: folders of classes, or tar shards; with timm's augmentation.

    Test labels of ImageNet are not public: the final numbers are those of ``val``. Settings that were chosen on it flatter themselves; ``hold_out`` keeps
    images of ``train`` to choose on.

    Raises:
        ValueError: neither form is there, or both; a split is missing; a shard is damaged; a label is missing or out of range; an unknown augmentation.
    """

    old_names: ClassVar[dict[str, str]] = {"colours": "normalization"}
    old_values: ClassVar[dict[str, dict[str, str]]] = {"normalization": {"half": "0.5"}}

    root: Path
    """Folder with train and val: folders of classes, or tar shards."""
    img_size: int = 224
    """Side of the images in pixels, after cropping."""
    min_scale: float = 0.08
    """Smallest share of the image that a training crop shows."""
    hflip: float = 0.5
    """How often a training image is mirrored."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """``random`` draws one of both for each crop, and evaluates with bicubic."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """As timm writes it, such as ``rand-…``, ``augmix-…``, ``original``, ``v0`` or ``3a``; none if None."""
    color_jitter: float = 0.0
    """Of brightness, contrast and saturation; together with no ``auto_augment`` but ``3a``."""
    random_erasing: float = 0.0
    """How often a rectangle is replaced by noise."""
    crop_pct: float = 0.875
    """Share of the shorter side that evaluation shows, in the middle."""
    normalization: Literal["imagenet", "0.5"] = "imagenet"
    """Mean and deviation that are taken off, those of ImageNet or 0.5 and 0.5."""
    hold_out: int = 0
    """Images of ``train``, drawn once, that validate in the place of ``val``, which is then for the end alone."""

    def __post_init__(self) -> None:
        shares = {"min_scale": self.min_scale, "crop_pct": self.crop_pct}
        odds = {"hflip": self.hflip, "random_erasing": self.random_erasing, "color_jitter": self.color_jitter}
        wrong = [name for name, value in shares.items() if not 0 < value <= 1] + [name for name, value in odds.items() if not 0 <= value <= 1]
        if self.img_size < 1 or self.hold_out < 0 or wrong:
            raise InputError(f"expected img_size of at least 1, hold_out of at least 0 and shares between 0 and 1, got {self}")
        if self.auto_augment is not None and not _AUGMENT.fullmatch(self.auto_augment):
            raise InputError(f"cannot read auto_augment {self.auto_augment!r}; {_AUGMENT_EXAMPLES}")
        if self.color_jitter and self.auto_augment not in (None, "3a"):
            raise InputError(f"timm jitters no colors beside auto_augment {self.auto_augment!r}; leave color_jitter at 0, or set auto_augment to None")

    def load(self) -> DataBundle:
        train, evaluate = self._transforms()
        passed = Passed()
        sources, classes = self._sources(passed)
        chosen, held = self._hold_out(len(sources["train"]))
        val = _Items(sources["val"], None, evaluate, augments=False)
        notes = ["test labels are not public: the final numbers are those of val"]
        if held is not None:
            notes = [f"{len(held)} images of train validate; the final numbers are those of val"]
        notes += passed.notes()
        return DataBundle(
            train=_Items(sources["train"], chosen, train, augments=True),
            val=val if held is None else _Items(sources["train"], held, evaluate, augments=False),
            test=val,
            classes=classes,
            img_size=self.img_size,
            in_chans=3,
            prepare=lambda image: evaluate(rgb(image)),
            notes=notes,
        )

    def smoke_data(self) -> "ImageNet":
        """Forty digits out of a wheel in shards of 32 pixels, which are written once; everything else stays."""
        made = _digit_shards()
        return self if Path(self.root) == made else replace(self, root=made, img_size=32, hold_out=min(self.hold_out, 4))

    def _transforms(self) -> tuple[Callable[[Any], Tensor], Callable[[Any], Tensor]]:
        try:
            from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train
        except ImportError as error:
            raise missing_extra("timm", "train", "the augmentation of ImageNet") from error
        mean, std = _NORMALIZATION[self.normalization]
        try:
            train = transforms_imagenet_train(
                self.img_size,
                scale=(self.min_scale, 1.0),
                hflip=self.hflip,
                color_jitter=self.color_jitter,
                auto_augment=self.auto_augment,
                interpolation=self.interpolation,
                mean=mean,
                std=std,
                re_prob=self.random_erasing,
                re_mode="pixel",
            )
        except (AssertionError, KeyError, ValueError) as error:
            raise InputError(f"timm cannot read auto_augment {self.auto_augment!r}: {error or 'unknown'}; {_AUGMENT_EXAMPLES}") from error
        _allow_no_bits(train)
        interpolation = "bilinear" if self.interpolation == "bilinear" else "bicubic"
        evaluate = transforms_imagenet_eval(self.img_size, crop_pct=self.crop_pct, interpolation=interpolation, mean=mean, std=std)
        return train, evaluate

    def _sources(self, passed: Passed) -> tuple[dict[str, "_Source"], list[str]]:
        root = Path(self.root)
        if not root.is_dir():
            raise InputError(f"{root} is no folder; expected one with train/CLASS/*.JPEG and val/CLASS/*.JPEG, or with *train*.tar and *val*.tar")
        named = _split_folders(root, passed)
        shards, folders = _shards(root, named, passed), {split: split in named and _has_folders(named[split]) for split in ("train", "val")}
        if any(shards.values()) and any(folders.values()):
            one = next(path for paths in shards.values() for path in paths)
            raise InputError(f"{root} holds shards, {one.name} among them, and class folders; expected one of the two: move the other elsewhere")
        if "test" in named and _has_folders(named["test"]):
            passed.remarks.append(f"{named['test']} is not read: the final numbers are those of val")
        if any(shards.values()):
            missing = [split for split in shards if not shards[split]]
            if missing:
                raise InputError(f"{root} has no shards of {missing[0]}; expected *{missing[0]}*.tar there or {missing[0]}/*.tar{_also(passed)}")
            passed.check(sum(map(len, shards.values())), str(root))
            found = {split: index_shards(paths) for split, paths in shards.items()}
            for source in found.values():
                source.tell(passed)
            passed.remarks += _absent(found)
            return dict(found), _numbered(root, found)
        return _listed(root, named, passed)

    def _hold_out(self, length: int) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        if not self.hold_out:
            return None, None
        if self.hold_out >= length:
            raise InputError(f"hold_out must leave images to train on, got {self.hold_out} of {length}")
        order = np.random.default_rng(seed_of("imagenet", "hold_out")).permutation(length)
        return np.sort(order[self.hold_out :]), np.sort(order[: self.hold_out])


class _Source(Protocol):
    """Files with labels."""

    @property
    def labels(self) -> NDArray[np.int64]: ...
    def __len__(self) -> int: ...
    def read(self, index: int) -> bytes: ...
    def name(self, index: int) -> str: ...


class _Items:
    """A split: the chosen images of a source, or all."""

    def __init__(self, source: _Source, chosen: NDArray[np.int64] | None, transform: Callable[[Any], Tensor], *, augments: bool) -> None:
        self._source, self._chosen, self._transform, self.augments = source, chosen, transform, augments

    def __len__(self) -> int:
        return len(self._source) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = range(len(self))[index]
        place = place if self._chosen is None else int(self._chosen[place])
        image = self._picture(place)
        if not self.augments:
            return self._transform(image), int(self._source.labels[place])
        with _drawn_from_torch():
            return self._transform(image), int(self._source.labels[place])

    def _picture(self, place: int) -> Any:
        content = self._source.read(place)
        try:
            # as it is stored, not as the camera was held: so it was in the published trainings
            return open_rgb(BytesIO(content), "it", upright=False)
        except PictureError as error:
            raise InputError(f"cannot decode {self._source.name(place)}: {error.reason}; get it again, or take it out") from error


def _allow_no_bits(train: Any) -> None:
    """timm's posterize may be asked to keep no bit, about once in 600 images at magnitude 9; Pillow 13 refuses what was black before, and a run would end."""
    for step in train.transforms:
        for op in [*getattr(step, "ops", ()), *(op for policy in getattr(step, "policy", ()) for op in policy)]:
            if op.name.startswith("Posterize"):
                op.aug_fn = _Posterize(op.aug_fn)


class _Posterize:
    def __init__(self, posterize: Callable[..., Any]) -> None:
        self._posterize = posterize

    def __call__(self, image: Any, bits: int, **options: Any) -> Any:
        from PIL import Image

        return self._posterize(image, bits, **options) if bits > 0 else Image.new(image.mode, image.size)


@contextmanager
def _drawn_from_torch() -> Iterator[None]:
    """Python's and NumPy's random numbers follow from torch's for a while, and then go on where they were."""
    seed = int(torch.randint(2**32, ()))
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _split_folders(root: Path, passed: Passed) -> dict[str, Path]:
    """Folders that are named for splits, in any case; of others it is said that they are not read."""
    found: dict[str, Path] = {}
    others = []
    for folder in folders_in(root, Passed()):
        split = split_of(folder.name)
        if split is None:
            others.append(folder.name)
        if split in found:
            raise InputError(f"{root} has {found[split].name}/ and {folder.name}/, which both name the {split} split; keep one, or rename the other")
        if split is not None:
            found[split] = folder
    if others:
        passed.remarks.append(f"{root} has folders beside its splits, which are not read: {few(others, 5)}")
    return found


def _shards(root: Path, named: dict[str, Path], passed: Passed) -> dict[str, list[Path]]:
    found = {}
    tars = _archives(root, passed)
    for split in ("train", "val"):
        loose = [path for path in tars if split in path.name.lower()]
        found[split] = sorted([*loose, *(_archives(named[split], passed) if split in named else ())])
    both = set(found["train"]) & set(found["val"])
    if both:
        raise InputError(f"{min(both)} is named as a shard of train and of val; rename it")
    for path in set(tars) - set(found["train"]) - set(found["val"]):
        passed.add("archives named for neither train nor val", path)
    _once(found)
    return found


def _archives(folder: Path, passed: Passed) -> list[Path]:
    """Shards in a folder; archives in other forms are passed over."""
    found = []
    for path in sorted(folder.iterdir()):
        # ILSVRC2012_img_train.tar, the archive as it is downloaded, is often left beside what was unpacked
        if is_hidden(path.name) or path.name.startswith("ILSVRC2012_img_"):
            continue
        if path.suffix.lower() == ".tar":
            found.append(path)
        elif _COMPRESSED.search(path.name.lower()):
            passed.add("compressed archives (decompress them to .tar)", path, lost=True)
    return found


def _once(shards: dict[str, list[Path]]) -> None:
    """Whether no shard is there twice, by a link."""
    owner: dict[Path, tuple[str, Path]] = {}
    for split, paths in shards.items():
        for path in paths:
            if not path.exists():
                raise InputError(f"{path} is a link to what is not there; remove it, or put the shard back")
            other, first = owner.setdefault(path.resolve(), (split, path))
            if first != path:
                raise InputError(f"{path} of {split} and {first} of {other} are one file by a link; keep one")


def _absent(found: dict[str, Shards]) -> list[str]:
    """Classes that training has and validation has not."""
    trained, judged = (np.unique(found[split].labels) for split in ("train", "val"))
    absent = np.setdiff1d(trained, judged)
    return [f"{len(absent)} of {len(trained)} classes have no image in val: {few([str(label) for label in absent], 5)}"] if absent.size else []


def _also(passed: Passed) -> str:
    return f". {passed.said()}" if passed.counts else ""


def _has_folders(folder: Path) -> bool:
    return bool(folders_in(folder, Passed()))


def _listed(root: Path, named: dict[str, Path], passed: Passed) -> tuple[dict[str, _Source], list[str]]:
    for split in ("train", "val"):
        if split not in named:
            raise InputError(
                f"{root} has neither {split}/ nor shards *{split}*.tar; expected {split}/CLASS/*.JPEG, or shards of train and of val{_also(passed)}"
            )
    if named["train"].resolve() == named["val"].resolve():
        raise InputError(f"{named['train']} and {named['val']} are the same folder by a link; expected different images in each")
    found: dict[str, Listing] = {split: list_classes(named[split], passed) for split in ("train", "val")}
    passed.remarks += shared_files(found)
    strangers = sorted(set(found["train"].classes) ^ set(found["val"].classes))
    if strangers:
        raise InputError(f"{root}: train and val must have the same classes, but {', '.join(strangers[:5])} lie in one of them only")
    return dict(found), found["train"].classes


def _numbered(root: Path, found: dict[str, Shards]) -> list[str]:
    """Names of the classes of shards. Every label has one, or it is out of range."""
    file = root / _CLASSNAMES
    if os.path.lexists(file):
        names = lines_of(read_text(file).rstrip())
        blank = [number for number, name in enumerate(names, 1) if not name.strip()]
        if blank:
            raise InputError(f"{file}, line {blank[0]}: expected the name of class {blank[0] - 1}, got an empty line")
        # two of ImageNet's thousand are called crane, and two maillot
        times = Counter(names)
        names = [f"{name} ({number})" if times[name] > 1 else name for number, name in enumerate(names)]
        said = f"{file} names {len(names)} classes"
    else:
        present = np.unique(found["train"].labels)
        # before anything is made for every number up to the largest: it may be four billion
        gaps = np.flatnonzero(present != np.arange(len(present)))
        if gaps.size:
            raise InputError(f"no training image of {root} has the label {gaps[0]}, but one has {present[-1]}; number from 0, or add {_CLASSNAMES}")
        names = [str(number) for number in range(len(present))]
        said = f"the labels of train go to {len(names) - 1}"
    if len(names) < 2:
        raise InputError(f"{root} has {len(names)} class; at least 2 are needed, and {said}")
    for split, source in found.items():
        wrong = np.flatnonzero(source.labels >= len(names))
        if wrong.size:
            place = int(wrong[0])
            raise InputError(f"{source.name(place)} has the label {int(source.labels[place])}, but {said}; the label or {split} is wrong")
    return names


def _digit_shards() -> Path:
    """Digits of a wheel as such shards."""
    return miniature("imagenet-shards-20", _write_digits)


def _write_digits(folder: Path) -> None:
    from PIL import Image

    images, labels = load_digits("mnist")
    order = np.random.default_rng(seed_of("imagenet", "stand-in")).permutation(len(labels))[:40]
    (folder / _CLASSNAMES).write_text("".join(f"{number}\n" for number in range(10)), encoding="utf8")
    for name, part in zip(("train-0", "train-1", "val-0", "val-1"), np.split(order, (10, 20, 30)), strict=True):
        with tarfile.open(folder / f"digits-{name}.tar", "w") as tar:
            for index in part:
                picture = BytesIO()
                Image.fromarray(images[index]).convert("RGB").save(picture, "PNG")
                for ending, content in (("png", picture.getvalue()), ("cls", str(labels[index]).encode())):
                    member = tarfile.TarInfo(f"{index:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
