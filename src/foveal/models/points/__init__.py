"""Networks of point clouds: PCT with any attention in its layers."""

from .config import PartTransformer, PointTransformer, PointwiseParts
from .mixer import PointMixer, list_point_mixers
from .pct import PCT, PCTParts, SimplePCT

__all__ = ["PCT", "PCTParts", "PartTransformer", "PointMixer", "PointTransformer", "PointwiseParts", "SimplePCT", "list_point_mixers"]
