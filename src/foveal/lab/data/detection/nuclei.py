"""Nuclei as instances, in the one real image that the ``stardist`` wheel carries (BSD-3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...._ranges import Range
from .._bundle import Data, register_data
from ..segmentation import Nuclei, read_nuclei
from ._bundle import DetectionBundle, Instances

__all__ = ["NucleiInstances"]


@register_data
@dataclass(frozen=True, kw_only=True)
class NucleiInstances(Data):
    """Boxes and masks of 125 nuclei: the left half of the image trains, the upper right quarter validates, the lower right tests.

    A nucleus at the border of a tile is what the tile shows of it; remainders below ``smallest`` pixels are left out.

    Raises:
        ValueError: a size that does not divide 256; the package that holds the image is not installed.
    """

    targets: ClassVar[str] = "boxes"
    package: ClassVar[str] = "stardist"

    ranges: ClassVar[Mapping[str, Range]] = {"smallest": Range(at_least=0)}

    img_size: int = 128
    """Side of the tiles and crops in pixels."""
    crops: int = 64
    """Random crops of an epoch."""
    smallest: int = 30
    """Fewest pixels of a nucleus in a tile or crop; smaller pieces are left out."""

    def __post_init__(self) -> None:
        self._tiles()

    def _tiles(self) -> Nuclei:
        return Nuclei(img_size=self.img_size, crops=self.crops)

    def load(self) -> DetectionBundle:
        _, numbers = read_nuclei()
        labels = [0] * int(numbers.max())
        made = self._tiles().load_instances()
        train, val, test = (Instances(split, labels, smallest=self.smallest) for split in (made.train, made.val, made.test))
        return DetectionBundle(
            train=train,
            val=val,
            test=test,
            classes=["nucleus"],
            img_size=made.img_size,
            in_chans=made.in_chans,
            prepare=made.prepare,
            notes=made.notes,
        )
