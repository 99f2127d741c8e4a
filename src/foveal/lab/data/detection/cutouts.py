"""Cut-out photographs on photographs, with boxes, masks, and the sentences that Tux Paint has for them. The things are real, the scenes composed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...._errors import InputError, missing_extra
from .._bundle import Data, register_data, seed_of
from .._fetch import packaged
from ..cutouts import CLASSES, _read, _standardize, fitted, split_cutouts, square_photo
from ._bundle import DetectionBundle, instances_of
from .digits import DigitScenes

__all__ = ["CutoutScenes"]

BACKGROUNDS = {
    "train": ("astronaut.png", "brick.png", "coffee.png", "grass.png", "hubble_deep_field.jpg", "rocket.jpg"),
    "val": ("coins.png", "gravel.png"),
    "test": ("chelsea.png", "ihc.png", "retina.jpg"),
}
"""In the wheel of scikit-image; no split shows another's."""
_SEEN = 0.2
"""A thing of which others leave less than this share is put elsewhere, or left out."""
_TRIES = 10


@register_data
@dataclass(frozen=True, kw_only=True)
class CutoutScenes(Data):
    """One to ``most`` cut-out photographs of ten classes on a photograph. Splits share neither cut-outs nor backgrounds; training scenes are drawn anew.

    Boxes and masks are of what is seen. A target has a ``caption``: the sentences of the things, the nearest first. 229 cut-outs and 11 backgrounds are few:
    give several seeds, and the spread.

    Raises:
        ValueError: the cut-outs were not fetched, the backgrounds are not installed; numbers that make no scene.
    """

    targets: ClassVar[str] = "boxes"
    package: ClassVar[str] = "tuxpaint-stamps"

    img_size: int = 128
    """Side of a scene in pixels."""
    most: int = 4
    """Most things in a scene."""
    smallest: float = 0.25
    """Longer side of a thing, as a share of the image's."""
    largest: float = 0.6
    """Longest side of a thing, as a share of the image's."""
    train_scenes: int = 1_000
    """Of an epoch."""
    val_scenes: int = 100
    """Number of validation scenes."""
    test_scenes: int = 300
    """Number of test scenes."""
    folder: str | None = None
    """Of the stamps; where the package is installed or was fetched if None."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if self.img_size < 16 or self.most < 1 or not 0 < self.smallest <= self.largest <= 1 or min(self.train_scenes, self.val_scenes, self.test_scenes) < 1:
            raise InputError(f"expected img_size of at least 16, 0 < smallest ≤ largest ≤ 1, and at least one thing and scene, got {self}")

    def load(self) -> DetectionBundle:
        counts = (self.train_scenes, self.val_scenes, self.test_scenes)
        parts = split_cutouts(self.folder, self.seed)
        train, val, test = (_Scenes(self, name, count, *part) for count, (name, part) in zip(counts, parts.items(), strict=True))
        return DetectionBundle(
            train=train,
            val=val,
            test=test,
            classes=list(CLASSES),
            img_size=self.img_size,
            in_chans=3,
            prepare=square_photo(self.img_size),
            notes=["scenes are composed: cut-out photographs on photographs"],
        )

    def smoke_data(self) -> Data:
        """Scenes of digits: cut-outs are fetched."""
        return DigitScenes().smoke_data()


class _Scenes:
    """A split. Where it does not augment, a scene depends on the settings, the split and its index alone."""

    def __init__(self, settings: CutoutScenes, split: str, count: int, files: list[Path], labels: list[int]) -> None:
        self.augments = split == "train"
        self._settings, self._split, self._count = settings, split, count
        self._cutouts, self._labels = [_read(path, settings.img_size) for path in files], labels
        self._sentences = [_sentence(path) for path in files]
        self._backgrounds = [_photograph(name) for name in BACKGROUNDS[split]]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        s = self._settings
        seed = int(torch.randint(2**62, ())) if self.augments else seed_of("cutout scenes", s.seed, self._split, index)
        rng = np.random.default_rng(seed)
        scene = self._background(rng)
        numbers, chosen = torch.zeros(s.img_size, s.img_size, dtype=torch.int64), list[int]()
        for file in rng.permutation(len(self._cutouts))[: int(rng.integers(1, s.most + 1))].tolist():
            for _ in range(_TRIES):
                thing = fitted(self._cutouts[file], int(s.img_size * rng.uniform(s.smallest, s.largest)), mirrored=bool(rng.random() < 0.5))
                top, left = (int(rng.integers(0, s.img_size - side + 1)) for side in thing.shape[1:])
                place = np.s_[..., top : top + thing.shape[1], left : left + thing.shape[2]]
                offered = numbers.clone()
                offered[place][thing[3] > 0.5] = len(chosen) + 1
                if self._all_seen(numbers, offered, len(chosen)):
                    scene[place] = thing[:3] + (1 - thing[3:]) * scene[place]
                    numbers = offered
                    chosen.append(file)
                    break
        target: dict[str, Any] = instances_of(numbers, [self._labels[file] for file in chosen], index)
        target["caption"] = " ".join(self._sentences[file] for file in reversed(chosen))
        return _standardize(scene.clamp(0, 1)), target

    def _all_seen(self, before: Tensor, after: Tensor, count: int) -> bool:
        """Whether the new thing leaves enough of each other one, by what was seen of it before, and is there itself."""
        old, new = (torch.bincount(numbers.flatten(), minlength=count + 2) for numbers in (before, after))
        return bool((new[1 : count + 1] >= _SEEN * old[1 : count + 1]).all()) and bool((new[1:] > 4).all())

    def _background(self, rng: np.random.Generator) -> Tensor:
        """A square of a photograph, half of its shorter side or more, mirrored or not."""
        photo = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
        side = int(min(photo.shape[1:]) * rng.uniform(0.5, 1.0))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[1:])
        square = photo[None, :, top : top + side, left : left + side].float() / 255
        size = self._settings.img_size
        small = torch.nn.functional.interpolate(square, size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        return small.flip(-1) if rng.random() < 0.5 else small


def _photograph(name: str) -> Tensor:
    """``(3, h, w)`` bytes."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "train", "reading photographs") from error
    with Image.open(packaged("skimage", "data", name, what="a photograph for the background")) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _sentence(path: Path) -> str:
    """The first line of the text beside a stamp, which is English; the name of the file where there is none."""
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf8").splitlines() if text.exists() else []
    return lines[0].strip() if lines and lines[0].strip() else f"{path.stem.replace('_', ' ')}."
