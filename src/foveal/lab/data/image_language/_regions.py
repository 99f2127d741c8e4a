"""What a frozen network, or nothing but their pixels, says of regions of scenes; made once for a split and kept in the cache folder."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...._errors import missing_extra
from ....models import efficientnet_lite0
from .._bundle import seed_of
from .._cache import cached
from ._scene import Backgrounds, Condition, compose
from ._things import Source, Thing

__all__ = ["WIDTH", "Features", "Plan", "Regions", "compose_split", "digest"]

Features = Literal["lite0-crops", "lite0", "pixels"]
"""``lite0-crops``: the means of EfficientNet-Lite0's layers of stride 16 and 32 on the box, brought to 96 × 96 pixels; ``lite0``: those layers on the scene,
over the box (RoIAlign); ``pixels``: the box as 8 × 8 pixels."""
WIDTH: dict[str, int] = {"lite0-crops": 112 + 320, "lite0": 112 + 320, "pixels": 3 * 8 * 8}
_ELSEWHERE = 4
"""Random boxes beside those of the things."""
_JITTER, _AT_ONCE, _VERSION = 0.1, 32, 1
_CROP = 96
"""Things are some 40 pixels long, a cell of the network's last layers: over whole scenes it tells their classes hardly, over boxes of this side well."""


def digest(numbers: Sequence[int]) -> str:
    """Of what decides a set beside the things of its scenes, such as how they lie."""
    return f"{seed_of(*numbers):x}"[:8]


@dataclass(frozen=True)
class Plan:
    """What a scene is to hold."""

    things: tuple[int, ...]
    fits: Condition


@dataclass(frozen=True)
class Regions:
    """Of each scene of a split: ``features`` ``(n, R, F)``, ``boxes`` ``(n, R, 4)`` from 0 to 1, ``there`` ``(n, R)`` and a small ``pictures``; where they
    are kept ``places`` ``(n, most, 4)``, the things' own boxes in pixels, in the order of the plan."""

    features: NDArray[np.float32]
    boxes: NDArray[np.float32]
    there: NDArray[np.bool_]
    pictures: NDArray[np.uint8]
    places: NDArray[np.int64] | None = None

    def inputs(self, index: int) -> dict[str, Tensor]:
        return {
            "regions": torch.from_numpy(self.features[index]),
            "boxes": torch.from_numpy(self.boxes[index]),
            "there": torch.from_numpy(self.there[index]),
            "picture": torch.from_numpy(self.pictures[index]),
        }


def compose_split(
    name: str,
    split: str,
    plans: Sequence[Plan],
    things: Sequence[Thing],
    *,
    source: Source,
    features: Features,
    side: int,
    most: int,
    seed: int,
    files: Sequence[Path],
    places: bool = False,
) -> Regions:
    """Compose the scenes of a split and read their regions, or take both from the cache.

    Args:
        name: of the set.
        split: whose backgrounds.
        plans: of the scenes.
        things: that the plans number.
        source: of the things.
        features: of the regions.
        side: of a scene in pixels.
        most: things of a scene.
        seed: of the set.
        files: that the things are read from.
        places: keep where the things lie.
    """
    asked = [list(plan.things) for plan in plans]
    digest = hashlib.sha256(json.dumps([asked, [(thing.label, thing.name) for thing in things]]).encode()).hexdigest()
    settings = (_VERSION, torch.__version__, name, split, digest, source, features, side, most, seed, *(["places"] if places else []))

    def make() -> dict[str, Any]:
        made = _make(split, plans, things, source, features, side, most, (name, seed, split))
        return made if places else {key: value for key, value in made.items() if key != "places"}

    return Regions(**cached(f"{name}-{split}", files, settings, make, folder="scenes"))


def _make(split: str, plans: Sequence[Plan], things: Sequence[Thing], source: Source, features: Features, side: int, most: int, key: Any) -> dict[str, Any]:
    backgrounds, pixels = Backgrounds(source, "test" if split == "unseen" else split), lru_cache(None)(lambda number: things[number].read(side))
    read, rows = _READERS[features](), most + _ELSEWHERE
    made: dict[str, list[Any]] = {"features": [], "boxes": [], "there": [], "pictures": [], "places": []}
    for start in range(0, len(plans), _AT_ONCE):
        scenes, boxes, there, places = [], [], [], []
        for index in range(start, min(start + _AT_ONCE, len(plans))):
            plan, rng = plans[index], np.random.default_rng(seed_of("scene", *key, index))
            own = [things[number] for number in plan.things]
            scene, found = compose(rng, backgrounds.draw(rng, side), [pixels(n) for n in plan.things], [thing.mirrors for thing in own], plan.fits)
            scenes.append(scene)
            drawn, exist = _drawn_boxes(rng, found, side, rows)
            boxes.append(drawn)
            there.append(exist)
            places.append(np.concatenate([found, np.zeros((most - len(found), 4), np.int64)]))
        pictures, regions = torch.stack(scenes), torch.from_numpy(np.stack(boxes))
        with torch.no_grad():
            seen = read(pictures, regions * side) * torch.from_numpy(np.stack(there))[..., None]
        made["features"].append(seen.float().numpy())
        made["boxes"].append(regions.numpy())
        made["there"].append(np.stack(there))
        made["places"].append(np.stack(places))
        # half of the side is enough to be looked at
        small = torch.nn.functional.avg_pool2d(pictures, 2) if side >= 96 else pictures
        made["pictures"].append((small * 255).round().byte().numpy())
    return {name: np.concatenate(parts) for name, parts in made.items()}


def _drawn_boxes(rng: np.random.Generator, found: NDArray[np.int64], side: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes of the things, moved a little, among random ones, in any order; 0 to 1, and padded."""
    true = found.astype(np.float64) / side
    sizes = np.concatenate([true[:, 2:] - true[:, :2]] * 2, 1)
    true = true + _JITTER * rng.uniform(-1, 1, true.shape) * sizes
    spans = rng.uniform(0.2, 0.5, (_ELSEWHERE, 2))
    corners = rng.random((_ELSEWHERE, 2)) * (1 - spans)
    every = rng.permutation(np.concatenate([true, np.concatenate([corners, corners + spans], 1)])).clip(0, 1)
    boxes, there = np.zeros((rows, 4), np.float32), np.zeros(rows, bool)
    boxes[: len(every)], there[: len(every)] = every, True
    return boxes, there


def _align(maps: Tensor, boxes: Iterable[Tensor], size: int, scale: float) -> Tensor:
    try:
        from torchvision.ops import roi_align
    except ImportError as error:
        raise missing_extra("torchvision", "train", "features of regions") from error
    return roi_align(maps, list(boxes), output_size=size, spatial_scale=scale, sampling_ratio=2, aligned=True)


def _lite0() -> Callable[[Tensor, Tensor], Tensor]:
    network = efficientnet_lite0()

    def read(pictures: Tensor, boxes: Tensor) -> Tensor:
        maps = network.forward_intermediates((255 * pictures - 127) / 128, indices=[3, 4], intermediates_only=True)
        side, rows = pictures.shape[-1], boxes.shape[1]
        return torch.cat([_align(each, boxes, 1, each.shape[-1] / side).flatten(1) for each in maps], 1).unflatten(0, (-1, rows))

    return read


def _lite0_crops() -> Callable[[Tensor, Tensor], Tensor]:
    network = efficientnet_lite0()

    def read(pictures: Tensor, boxes: Tensor) -> Tensor:
        # rows of padding have boxes without area
        real = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        crops = _align(pictures, [own[kept] for own, kept in zip(boxes, real, strict=True)], _CROP, 1.0)
        maps = network.forward_intermediates((255 * crops - 127) / 128, indices=[3, 4], intermediates_only=True)
        seen = boxes.new_zeros(*real.shape, WIDTH["lite0-crops"])
        seen[real] = torch.cat([each.mean((2, 3)) for each in maps], 1)
        return seen

    return read


def _pixels() -> Callable[[Tensor, Tensor], Tensor]:
    return lambda pictures, boxes: (2 * _align(pictures, boxes, 8, 1.0) - 1).flatten(1).unflatten(0, (-1, boxes.shape[1]))


_READERS: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {"lite0-crops": _lite0_crops, "lite0": _lite0, "pixels": _pixels}
