"""Point clouds."""

from ._bundle import PARTS, SHAPES, PointBundle
from .furniture import Furniture
from .modelnet import ModelNet40H5, ModelNet40Off, ModelNet40Txt
from .shapenet import PARTS_OF, ShapeNetPartH5, ShapeNetPartTxt
from .solids import SolidPairs, Solids

__all__ = [
    "PARTS",
    "PARTS_OF",
    "SHAPES",
    "Furniture",
    "ModelNet40H5",
    "ModelNet40Off",
    "ModelNet40Txt",
    "PointBundle",
    "ShapeNetPartH5",
    "ShapeNetPartTxt",
    "SolidPairs",
    "Solids",
]
