"""Pairs made by shifting: pieces of photographs on planes, seen from two places. The disparity is exact, and what only one eye sees is known.

A layer has a texture over the left image's coordinates, a shape, and a plane of disparities ``d(x, y) = a + b·x + c·y``. The left image shows it at x, the
right one at ``x − d``. Where layers meet, the larger disparity is nearer and wins.

Shapes     L layers, H height, W width, T width of textures, which reach as far beyond the left image as the right one sees
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...._errors import InputError
from .._bundle import Data, register_data, seed_of
from .._fetch import packaged
from ._bundle import Pixels, StereoBundle, StereoSample, as_sample, prepare_pair
from .scenes import SCENES, RealScenes

__all__ = ["Layers", "ShiftStereo", "Shifted", "draw_layers", "shifted_pair"]

TRAIN_PHOTOS = ("astronaut.png", "brick.png", "coffee.png", "grass.png", "hubble_deep_field.jpg", "ihc.png", "page.png", "retina.jpg", "rocket.jpg", "text.png")
VAL_PHOTOS = ("chelsea.png", "gravel.png", "coins.png")
"""In the wheel of scikit-image. No pair shows photographs of both, and the test scenes are in neither."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layers:
    """What a pair shows, in the left image's coordinates."""

    textures: Floats
    """``(L, H, T, 3)``, 0 to 1."""
    shapes: NDArray[np.bool_]
    """``(L, H, T)``; the first covers everything."""
    planes: Floats
    """``(L, 3)``: a, b and c, with b below 1."""


@dataclass(frozen=True)
class Shifted:
    """A pair and its truth."""

    left: Floats
    """``(H, W, 3)``, 0 to 1."""
    right: Floats
    disparity: Floats
    """Of the left image, ``(H, W)``, everywhere."""
    occluded: NDArray[np.bool_]
    """Where a pixel of the left image is hidden, or out of sight, in the right one."""


def shifted_pair(layers: Layers, width: int) -> Shifted:
    """Both views of the layers.

    Args:
        layers: whose textures reach beyond ``width`` by the largest disparity.
        width: of the images.
    """
    left, right, depth = _views(layers, width)
    target = np.arange(width) - depth
    there, _ = _nearest(layers, _seen_from_right(layers, target))
    # the pixel's own layer is among them, and is found again up to rounding
    occluded = (target < 0) | (there > depth + 1e-4)
    return Shifted(left, right, depth.astype(np.float32), occluded)


def _views(layers: Layers, width: int) -> tuple[Floats, Floats, Pixels]:
    """The left and the right image, and the left one's disparity in double precision."""
    count, height, reach = layers.shapes.shape
    columns = np.arange(width)
    textures = layers.textures.reshape(-1, 3)
    # where the rows begin in the texture of a layer
    first = np.arange(height)[:, None] * reach

    # where each layer's point lies in the left image, for the pixels of the left and of the right one
    depth, chosen = _nearest(layers, np.broadcast_to(columns.astype(np.float64), (count, height, width)))
    left = textures.take(chosen * (height * reach) + first + columns, 0)

    at_right = _seen_from_right(layers, columns.astype(np.float64))
    _, front = _nearest(layers, at_right)
    place = np.clip(np.take_along_axis(at_right, front[None], 0)[0], 0, reach - 1)
    below = np.minimum(place.astype(np.int64), reach - 2)
    share = (place - below)[..., None].astype(np.float32)
    pixel = front * (height * reach) + first + below
    right = (1 - share) * textures.take(pixel, 0) + share * textures.take(pixel + 1, 0)
    return left, right, depth


def _seen_from_right(layers: Layers, x: Pixels) -> Pixels:
    """``x_r = x − (a + b·x + c·y)`` solved for x: ``(L, H, W)``."""
    a, b, c = layers.planes.astype(np.float64).T[:, :, None, None]
    return (x + a + c * np.arange(layers.shapes.shape[1])[:, None]) / (1 - b)


def _nearest(layers: Layers, x: Pixels) -> tuple[Pixels, Pixels]:
    """The largest disparity among the layers that have a point there, ``(H, W)``, and the number of its layer; of x ``(L, H, W)``."""
    _, height, reach = layers.shapes.shape
    rows = np.arange(height)[:, None]
    # no layer has a point beside its texture, except for the background
    shapes = np.pad(layers.shapes, ((0, 0), (0, 0), (1, 1)))
    first = 1 + rows * (reach + 2)
    # the background is everywhere, also where a row of the right image begins to the left of it
    best, front = np.full(x.shape[1:], -np.inf), np.zeros(x.shape[1:], np.int64)
    for number, (a, b, c) in enumerate(layers.planes.astype(np.float64)):
        depth = a + b * x[number] + c * rows
        nearer = depth > best
        if number:
            nearer &= shapes[number].take(np.clip(np.rint(x[number]), -1, reach).astype(np.int64) + first)
        np.copyto(best, depth, where=nearer)
        front[nearer] = number
    return best, front


def draw_layers(photos: Sequence[Pixels], height: int, width: int, max_disparity: int, objects: int, rng: np.random.Generator) -> Layers:
    """A background and some objects before it, of pieces of photographs.

    Args:
        photos: ``(h, w, 3)`` bytes, of any size; small ones go on mirrored.
        height: H.
        width: of the images.
        max_disparity: all disparities stay below.
        objects: how many there may be at most.
        rng: draws everything.
    """
    reach = width + max_disparity
    count = 1 + int(rng.integers(1, objects + 1))
    textures = np.empty((count, height, reach, 3), np.float32)
    shapes = np.empty((count, height, reach), bool)
    planes = np.empty((count, 3), np.float32)
    far = rng.uniform(0.02, 0.5) * max_disparity
    for number in range(count):
        _piece(photos[int(rng.integers(len(photos)))], textures[number], rng)
        shapes[number] = True if number == 0 else _blob(height, width, reach, rng)
        # of the slant the ends over the whole image count, so that no disparity is below 0 or too large
        middle = far if number == 0 else rng.uniform(far, 0.85 * max_disparity)
        room = 0.9 * min(middle, 0.95 * max_disparity - middle)
        slant = rng.uniform(-0.5, 0.5, 2) * room
        across, along = slant[0] / reach, slant[1] / height
        planes[number] = middle - (slant[0] + slant[1]) / 2, across, along
    return Layers(textures, shapes, planes)


def _piece(photo: Pixels, into: Floats, rng: np.random.Generator) -> None:
    """A part of a photograph, enlarged or not, mirrored or not, brighter or darker; written into ``(H, T, 3)``."""
    step = rng.choice([0.5, 1.0, 1.0, 2.0])
    places = []
    for length, side in zip(photo.shape, into.shape[:2], strict=False):
        start = rng.integers(length)
        # a saw between the borders: what runs off one goes on mirrored
        turn = (start + (np.arange(side) * step).astype(np.int64)) % (2 * length)
        places.append(np.where(turn < length, turn, 2 * length - 1 - turn))
    rows, columns = places
    into[:] = photo.reshape(-1, 3).take(rows[:, None] * photo.shape[1] + columns, 0)
    # rows of all channels in turn: NumPy is slow along an axis of three
    flat, width = into.reshape(len(into), -1), into.shape[1]
    flat /= 255
    flat *= np.tile(rng.uniform(0.6, 1.2, 3).astype(np.float32), width)
    flat += np.float32(rng.uniform(-0.1, 0.1))
    np.clip(flat, 0, 1, out=flat)


def _blob(height: int, width: int, reach: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A shape around a point: a circle whose radius swings with the angle."""
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    radius, stretch = rng.uniform(0.1, 0.4) * height, rng.uniform(0.5, 2)
    swings = [rng.uniform(-0.35, 0.35) / k * np.exp(1j * rng.uniform(0, 2 * np.pi)) for k in range(1, 6)]
    blob = np.zeros((height, reach), bool)
    # no point of it lies farther away; one pixel more, for rounding
    most = radius * (1 + sum(map(abs, swings))) + 1
    rows, columns = (
        np.arange(max(0, int(at - far)), max(0, min(side, int(at + far) + 2))) for at, far, side in ((y, most, height), (x, stretch * most, reach))
    )
    offset = (columns - x) / stretch + 1j * (rows[:, None] - y)
    distance = np.abs(offset)
    unit = offset / np.maximum(distance, 1e-6)
    # the real part of a sum over k of swing · unit^k, which is amplitude · cos(k · angle + phase)
    swing = np.zeros_like(unit)
    for amplitude in reversed(swings):
        swing += amplitude
        swing *= unit
    blob[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = distance < radius * (1 + swing.real)
    return blob


@register_data
@dataclass(frozen=True, kw_only=True)
class ShiftStereo(Data):
    """Made pairs to train and validate on, real scenes to test on, each of which is scored by itself; the headline is the first one's.

    Raises:
        ValueError: numbers that make no pair; a scene that is not here.
    """

    targets: ClassVar[str] = "disparity"
    package: ClassVar[str] = "skimage"

    crop: tuple[int, int] = (96, 160)
    """Height and width of the made pairs."""
    max_disparity: int = 32
    """All disparities stay below; scenes are made smaller until theirs do."""
    objects: int = 6
    """Most objects of a pair."""
    train_pairs: int = 400
    """Of an epoch; they are drawn anew each time."""
    val_pairs: int = 16
    """Number of validation pairs."""
    scenes: tuple[str, ...] = ("motorcycle",)
    """Out of ``foveal.lab.data.SCENES``."""
    noise: float = 0.01
    """Of the sensor; and one view is a little brighter than the other."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def __post_init__(self) -> None:
        if min(self.crop) < 8 or self.max_disparity < 1 or min(self.objects, self.train_pairs, self.val_pairs) < 1 or self.noise < 0:
            raise InputError(f"expected a crop of at least 8×8, a largest disparity, objects and pairs of at least 1 and noise of at least 0, got {self}")
        if not self.scenes or len(set(self.scenes)) != len(self.scenes):
            raise InputError(f"expected at least one scene, each once, out of {', '.join(SCENES)}; got {self.scenes}")

    def load(self) -> StereoBundle:
        test = RealScenes(self.scenes, self.max_disparity)
        smaller = ", ".join(f"{name} {factor} times" for name, factor in test.factors.items())
        return StereoBundle(
            train=Pairs(self, "train", TRAIN_PHOTOS, self.train_pairs, augments=True),
            val=Pairs(self, "val", VAL_PHOTOS, self.val_pairs, augments=False),
            test=test,
            classes=[],
            img_size=max(self.crop),
            in_chans=6,
            prepare=prepare_pair,
            notes=[f"a test scene is one pair, made smaller ({smaller}): its number says nothing of other scenes, and is no number of the benchmark"],
            crop=self.crop,
            scenes=self.scenes,
        )

    def smoke_data(self) -> "ShiftStereo":
        """Small pairs, few of them, and the one scene that needs no fetching."""
        return replace(self, crop=(32, 64), train_pairs=min(16, self.train_pairs), val_pairs=min(2, self.val_pairs), scenes=("motorcycle",))


class Pairs:
    """A split of made pairs. Where it does not augment, a pair depends on the seed, the split and its index alone."""

    def __init__(self, settings: ShiftStereo, split: str, photos: Sequence[str], count: int, *, augments: bool) -> None:
        self.augments = augments
        self._settings, self._split, self._count = settings, split, count
        self._photos = [photo(name) for name in photos]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> StereoSample:
        layers, rng = self._layers(index)
        left, right, disparity = _views(layers, self._settings.crop[1])
        for view in (left, right):
            view *= np.float32(rng.uniform(0.95, 1.05))
            view += np.float32(self._settings.noise) * rng.standard_normal(view.shape, dtype=np.float32)
            np.clip(view, 0, 1, out=view)
        return as_sample(left, right, disparity)

    def pair(self, index: int) -> tuple[Shifted, np.random.Generator]:
        """The pair without noise, with its occlusions, and what draws the noise."""
        layers, rng = self._layers(index)
        return shifted_pair(layers, self._settings.crop[1]), rng

    def _layers(self, index: int) -> tuple[Layers, np.random.Generator]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        seed = int(torch.randint(2**62, ())) if self.augments else seed_of("shifts", self._settings.seed, self._split, index)
        rng = np.random.default_rng(seed)
        height, width = self._settings.crop
        return draw_layers(self._photos, height, width, self._settings.max_disparity, self._settings.objects, rng), rng


def photo(name: str) -> Pixels:
    path = packaged("skimage", "data", name, what="a photograph to shift")
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
