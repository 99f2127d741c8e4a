"""Made clouds of points on solids: one solid and its kind, or two solids, each point of which must know the other's.

Every cloud is decided by the seed, the split and its number alone. Solids are stretched along their axes, turned, by default by any rotation, and their points
jittered.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._ranges import SEED, Range
from .._bundle import Data, register_data, seed_of
from ._bundle import PARTS, SHAPES, PointBundle, no_picture
from ._clouds import rotation_notes
from .augment import Turning
from .shapes import ROUND, SOLIDS, random_rotation

__all__ = ["SolidPairs", "Solids"]

_PAIR_KINDS = ("sphere", "cone", "cube", "cylinder")
_STRETCH = (0.8, 1.2)


@dataclass(frozen=True, kw_only=True)
class _Made(Data):
    """Settings that made clouds share."""

    num_points: int = 256
    """In a cloud."""
    normals: bool = True
    """Beside the coordinates the surface's normal: six channels instead of three."""
    jitter: float = 0.01
    """Standard deviation of the noise on coordinates; solids have a radius of about 1."""
    train_clouds: int = 2_000
    """Clouds to train on."""
    val_clouds: int = 300
    """Clouds to validate on."""
    test_clouds: int = 1_000
    """Clouds to test on."""
    train_rotation: Turning = "so3"
    """Solids to train on are turned by any rotation, about the up axis alone (z), or not at all."""
    test_rotation: Turning = "so3"
    """Likewise those of validation and test."""
    seed: int = 0
    """Of the clouds; another seed is another set."""

    ranges: ClassVar[Mapping[str, Range]] = {
        "num_points": Range(at_least=2),
        "jitter": Range(at_least=0, below=1),
        **dict.fromkeys(("train_clouds", "val_clouds", "test_clouds"), Range(at_least=1)),
        "seed": SEED,
    }

    def cloud(self, split: str, index: int) -> tuple[Any, Any]:
        raise NotImplementedError

    def _bundle(self, classes: Iterable[str], **more: Any) -> PointBundle:
        train, val, test = (_Clouds(self, split, getattr(self, f"{split}_clouds")) for split in ("train", "val", "test"))
        channels = 6 if self.normals else 3
        turned = (self.train_rotation, self.test_rotation)
        notes = [] if turned == ("so3", "so3") else rotation_notes(*turned)
        return PointBundle(train, val, test, list(classes), 0, channels, no_picture, notes=notes, num_points=self.num_points, **more)

    def _solid(self, rng: np.random.Generator, kind: str, n: int, split: str) -> NDArray[np.float64]:
        """``(n, 6)``: points and normals, stretched, turned and jittered."""
        points, normals = SOLIDS[kind](rng, n)
        stretch, turn = rng.uniform(*_STRETCH, 3), random_rotation(rng, self.train_rotation if split == "train" else self.test_rotation)
        points, normals = (points * stretch) @ turn.T, (normals / stretch) @ turn.T
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return np.column_stack([points + self.jitter * rng.normal(size=points.shape), normals])

    def _tensor(self, cloud: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(cloud[:, : 6 if self.normals else 3].astype(np.float32))


@register_data
@dataclass(frozen=True, kw_only=True)
class Solids(_Made):
    """Clouds of one solid, by kind: sphere, ellipsoid, cube, cylinder, cone, torus."""

    targets: ClassVar[str] = SHAPES

    def load(self) -> PointBundle:
        return self._bundle(SOLIDS, chance=1 / len(SOLIDS))

    def cloud(self, split: str, index: int) -> tuple[Tensor, int]:
        rng = np.random.default_rng(seed_of("solids", self.seed, split, index))
        label = int(rng.integers(len(SOLIDS)))
        return self._tensor(self._solid(rng, list(SOLIDS)[label], self.num_points, split)), label


@register_data
@dataclass(frozen=True, kw_only=True)
class SolidPairs(_Made):
    """Two solids side by side: a point's label is its own solid's kind, and whether the other one is round.

    The own kind can partly be read off a point and its normal. The other's cannot: without a meeting of points half of the answers are right.
    """

    targets: ClassVar[str] = PARTS

    num_points: int = 128
    """In a cloud, half of them on each solid."""

    def load(self) -> PointBundle:
        classes = [f"{kind}, the other {word}" for kind in _PAIR_KINDS for word in ("angular", "round")]
        return self._bundle(classes, num_shapes=1, parts_of_shape=(tuple(range(len(classes))),))

    def cloud(self, split: str, index: int) -> tuple[tuple[Tensor, int], Tensor]:
        rng = np.random.default_rng(seed_of("solid-pairs", self.seed, split, index))
        kinds = [_PAIR_KINDS[k] for k in rng.integers(len(_PAIR_KINDS), size=2)]
        halves = [self.num_points // 2, self.num_points - self.num_points // 2]
        clouds, labels = [], []
        for side, (kind, other, n) in enumerate(zip(kinds, kinds[::-1], halves, strict=True)):
            cloud = self._solid(rng, kind, n, split)
            cloud[:, 0] += 1.5 * (2 * side - 1)
            clouds.append(cloud)
            labels.append(np.full(n, 2 * _PAIR_KINDS.index(kind) + (other in ROUND)))
        return (self._tensor(np.concatenate(clouds)), 0), torch.from_numpy(np.concatenate(labels))


class _Clouds:
    augments = False

    def __init__(self, settings: _Made, split: str, count: int) -> None:
        self._settings, self._split, self._count = settings, split, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._settings.cloud(self._split, index)
