"""Settings that all sets of composed scenes have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from ...._ranges import Range
from .._bundle import Data
from ._regions import Features, Plan, Regions, compose_split
from ._things import Source, Thing, Things

__all__ = ["ComposedScenes"]


@dataclass(frozen=True, kw_only=True)
class ComposedScenes(Data):
    """What scenes are composed of, and what is known of their regions."""

    package: ClassVar[str] = "tuxpaint-stamps"
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("train_scenes", "val_scenes", "test_scenes"), Range(at_least=1)),
        "side": Range(at_least=32, at_most=1024),
    }

    source: Source = "stamps"
    """What is shown: ``stamps``, cut-out photographs, which are fetched; ``digits``, handwritten ones in color, which need nothing."""
    features: Features = "lite0-crops"
    """What is known of a region: ``lite0-crops``, what a pretrained EfficientNet-Lite0 says of its box by itself; ``lite0``, of its place in the whole scene,
    which for things as small tells far less; ``pixels``, 8 × 8 of them."""
    side: int = 128
    """Side of a scene in pixels."""
    folder: str | None = None
    """Of the stamps; where the package is installed or was fetched if None."""
    seed: int = 0
    """Decides everything about the set that is random."""

    def smoke_data(self) -> Self:
        """Digits and pixels: the rest is fetched."""
        few = super().smoke_data()
        assert isinstance(few, type(self)), "the same with other numbers"
        small: dict[str, Any] = {"source": "digits", "features": "pixels", "side": 64, "folder": None}
        return few if all(getattr(few, name) == value for name, value in small.items()) else replace(few, **small)

    def composed(self, name: str, split: str, plans: Sequence[Plan], pool: Sequence[Thing], things: Things, most: int, *, places: bool = False) -> Regions:
        """See :func:`compose_split`."""
        options: dict[str, Any] = {
            "source": self.source,
            "features": self.features,
            "side": self.side,
            "seed": self.seed,
            "files": things.files,
            "places": places,
        }
        return compose_split(name, split, plans, pool, most=most, **options)
