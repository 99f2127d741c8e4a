"""The authors' checkpoints: key layouts in, our modules out, same outputs and gradients."""

from . import dna, external
from ._registry import list_kinds, load, translate

__all__ = ["dna", "external", "list_kinds", "load", "translate"]
