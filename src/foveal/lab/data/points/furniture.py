"""Furniture: clouds on meshes of ten kinds of things out of Sweet Home 3D's catalogs (Debian: sweethome3d-furniture, 120 MB, CC-BY-3.0 and CC0).

The meshes are real, the labels ours: by the last noun of a name that stands for a kind, of what comes before "with", "on", "and" and the like. They are
committed in ``furniture.csv``, made by :func:`label_of`. 355 models are few, and very unequal in number: give several seeds, and the spread. Splits are by
name: whatever is called alike, but for a number, is on one side. The catalog of persons is left out.
"""

import csv
import hashlib
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...._errors import InputError
from .._bundle import Data, register_data, seed_of
from .._cache import cached
from .._fetch import find
from ._bundle import SHAPES, PointBundle, no_picture
from ._clouds import Clouds, DrawnClouds, Stored, in_unit_ball
from .formats import read_obj, sample_surface
from .solids import Solids

__all__ = ["KINDS", "Furniture", "label_of", "stem_of"]

KINDS: Mapping[str, tuple[str, ...]] = {
    "chair": ("chair", "armchair", "stool", "bench", "seat", "ottoman", "wheelchair"),
    "table": ("table", "desk"),
    "vessel": ("bowl", "cup", "mug", "glass", "bottle", "vase", "jar", "pot", "teapot", "pan", "plate", "creamer", "kettle", "flacon"),
    "opening": ("door", "window"),
    "cabinet": ("shelf", "shelve", "cabinet", "bookcase", "wardrobe", "cupboard", "chest", "dresser"),
    "lamp": ("lamp", "light", "lantern", "chandelier", "lamppost", "spotlight"),
    "sofa": ("sofa", "couch"),
    "plant": (
        *("plant", "tree", "ficus", "bush", "bamboo", "cactus", "pine", "flower", "tulip", "orchid", "lily", "yucca", "spathiphyllum"),
        *("acacia", "cypress", "poplar", "beech", "maple", "blossom"),
    ),
    "bath": ("bath", "bathtub", "washbasin", "basin", "sink", "lavatory", "urinal", "bidet", "jacuzzi", "stall"),
    "bed": ("bed", "crib", "futon"),
}
"""Words that stand for each kind."""
_NEITHER = {
    *("fan", "swing", "rug", "mat", "curtain", "clock", "frame", "mirror", "towel", "top", "football", "game", "tennis", "billiard", "pool"),
    *("shutter", "blind", "cake", "freezer", "leon", "abdominal", "box"),
}
"""Words that make a thing none of these, whatever else it is called: a table fan, a pool table, the car Seat Leon."""
_BEFORE = re.compile(r"\b(?:with|on|and|for|under|over)\b")
LABELS = Path(__file__).with_name("furniture.csv")


def label_of(name: str) -> str | None:
    """The kind that the name of a model says, None if none of ten."""
    words, head = (_words(text) for text in (name, _BEFORE.split(name.lower())[0]))
    if _NEITHER & set(words):
        return None
    found = [kind for word in head for kind, nouns in KINDS.items() if word in nouns]
    return found[-1] if found else None


def _words(name: str) -> list[str]:
    """Singular where that is one of ours; a sofa of two seats is no seat."""
    known = {*_NEITHER, *(noun for nouns in KINDS.values() for noun in nouns)}
    return [word if word in known or word == "seats" else word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower())]


def stem_of(name: str) -> str:
    """What variants of a model have in common: its name without numbers."""
    return " ".join(re.findall(r"[^\W\d_]+", name.lower()))


@register_data
@dataclass(frozen=True, kw_only=True)
class Furniture(DrawnClouds):
    """Clouds on meshes of ten kinds of furniture; about 60 / 15 / 25 by name in every kind.

    Get the meshes with ``foveal.lab.data.fetch("sweethome3d-furniture")``.

    Raises:
        ValueError: the package was not fetched; a catalog or a model is not there, or cannot be read; the message names it.
    """

    targets: ClassVar[str] = SHAPES
    package: ClassVar[str] = "sweethome3d-furniture"
    num_points: int = 512
    """Of a cloud, drawn on each mesh once, evenly by area."""
    normals: bool = True
    """Beside the coordinates the surface's normal: six channels instead of three."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Training clouds are stretched along each axis by a factor between these."""
    shift: float = 0.1
    """Training clouds are moved along each axis by up to this; shapes have a radius of 1."""
    folder: str | None = None
    """Of the catalogs; where the package is installed or was fetched if None."""

    def load(self) -> PointBundle:
        folder = find(self.package) if self.folder is None else Path(self.folder)
        models = _listed()
        clouds = self._clouds(folder, models)
        parts = split_by_name([(label, stem_of(name)) for _, name, _, label in models], self.seed)
        kinds = list(KINDS)
        splits: dict[str, Any] = {}
        for split, chosen in parts.items():
            stored = Stored.of([clouds[place] for place in chosen], [kinds.index(models[place][3]) for place in chosen])
            splits[split] = Clouds(self, stored, split, augments=split == "train")
        return PointBundle(
            **splits,
            classes=kinds,
            img_size=0,
            in_chans=self.channels,
            prepare=no_picture,
            notes=["labels are ours, read off the names of the models", *self.notes()],
            num_points=self.num_points,
            up_axis=self.up_axis,
        )

    def smoke_data(self) -> Data:
        """Solids: furniture is fetched."""
        return replace(Solids(num_points=64).smoke_data(), normals=self.normals)  # type: ignore[type-var]

    def _clouds(self, folder: Path, models: "list[tuple[str, str, str, str]]") -> NDArray[np.float32]:
        """``(models, num_points, 3 or 6)``."""
        catalogs = sorted({file for file, _, _, _ in models})
        for file in catalogs:
            if not (folder / file).is_file():
                raise InputError(f"{folder / file} is not there; expected the catalogs of sweethome3d-furniture in {folder}")

        def make() -> dict[str, NDArray[Any]]:
            made = []
            for file in catalogs:
                try:
                    with zipfile.ZipFile(folder / file) as archive:
                        made += [(place, self._cloud(archive, folder / file, model)) for place, (own, _, model, _) in enumerate(models) if own == file]
                except zipfile.BadZipFile as error:
                    raise InputError(f"{folder / file} is no catalog: {error}; fetch it anew") from error
            return {"points": np.stack([cloud for _, cloud in sorted(made, key=lambda one: one[0])])}

        version = hashlib.sha256(repr(models).encode()).hexdigest()
        points = cached("Furniture", [folder / file for file in catalogs], ("Furniture", self.num_points, self.seed, version), make)["points"]
        return np.ascontiguousarray(points[..., : self.channels])

    def _cloud(self, archive: zipfile.ZipFile, catalog: Path, model: str) -> NDArray[np.float32]:
        path = catalog / model
        try:
            text = archive.read(model)
        except KeyError as error:
            raise InputError(f"{catalog} has no {model}; this was written for version 1.8 of its catalogs") from error
        rng = np.random.default_rng(seed_of("furniture mesh", self.seed, catalog.name, model))
        return in_unit_ball(sample_surface(*read_obj(text, path), self.num_points, rng, path=path), path)


def split_by_name(models: list[tuple[str, str]], seed: int) -> dict[str, list[int]]:
    """Places of models ``(kind, stem)`` in each split: of every kind about 60 / 15 / 25, stems whole. A stem goes where most is missing, the largest first."""
    shares = {"train": 0.6, "val": 0.15, "test": 0.25}
    parts: dict[str, list[int]] = {name: [] for name in shares}
    kinds: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (kind, stem) in enumerate(models):
        kinds[kind][stem].append(place)
    for kind, stems in kinds.items():
        rng = np.random.default_rng(seed_of("furniture", seed, kind))
        total, have = sum(map(len, stems.values())), dict.fromkeys(shares, 0)
        names = sorted(stems)
        order = [names[place] for place in rng.permutation(len(names))]
        for stem in sorted(order, key=lambda stem: -len(stems[stem])):
            split = max(shares, key=lambda name: shares[name] - have[name] / total)
            parts[split] += stems[stem]
            have[split] += len(stems[stem])
    return {name: sorted(places) for name, places in parts.items()}


def _listed() -> list[tuple[str, str, str, str]]:
    """Catalog, name, model and kind of each."""
    with LABELS.open(encoding="utf8", newline="") as file:
        return [(row["file"], row["name"], row["model"], row["label"]) for row in csv.DictReader(file)]
