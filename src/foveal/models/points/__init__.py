"""Networks of point clouds: PCT with any attention in its layers."""

from .mixer import PointMixer, list_point_mixers
from .pct import PCT, PCTParts, SimplePCT

__all__ = ["PCT", "PCTParts", "PointMixer", "SimplePCT", "list_point_mixers"]
