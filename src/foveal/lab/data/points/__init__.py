"""Point clouds."""

from ._bundle import PARTS, SHAPES, PointBundle
from .solids import SolidPairs, Solids

__all__ = ["PARTS", "SHAPES", "PointBundle", "SolidPairs", "Solids"]
