"""The authors' checkpoints: key layouts in, our modules out, same outputs and gradients."""

from . import dna, efficient, external, halo, linear
from ._registry import list_kinds, load, translate

__all__ = ["dna", "efficient", "external", "halo", "linear", "list_kinds", "load", "translate"]
