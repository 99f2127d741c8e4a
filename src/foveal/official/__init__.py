"""The authors' checkpoints: key layouts in, our modules out, same outputs and gradients."""

from . import caam, catt, dna, efficient, external, halo, linear, pct, sagan, viscop
from ._registry import list_kinds, load, translate

__all__ = ["caam", "catt", "dna", "efficient", "external", "halo", "linear", "list_kinds", "load", "pct", "sagan", "translate", "viscop"]
