"""The authors' checkpoints: key layouts in, our modules out, same outputs and gradients."""

from . import caam, catt, dna, efficient, external, halo, linear, lxmert, pct, sagan, viscop
from ._registry import list_kinds, load, translate

__all__ = ["caam", "catt", "dna", "efficient", "external", "halo", "linear", "list_kinds", "load", "lxmert", "pct", "sagan", "translate", "viscop"]
