"""Visual probes: learned vectors that read the layers of a tower."""

from .packing import block_mask, pack, pad
from .visual import FORMS, ProbeForm, VisualProbes

__all__ = ["FORMS", "ProbeForm", "VisualProbes", "block_mask", "pack", "pad"]
