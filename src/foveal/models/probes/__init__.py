"""Visual probes: learned vectors that read the layers of a tower."""

from .collapse import ProbeCollapse, ProbeLayer, probe_collapse, probe_collapse_in
from .packing import block_mask, pack, pad
from .visual import FORMS, ProbeForm, VisualProbes

__all__ = [
    "FORMS",
    "ProbeCollapse",
    "ProbeForm",
    "ProbeLayer",
    "VisualProbes",
    "block_mask",
    "pack",
    "pad",
    "probe_collapse",
    "probe_collapse_in",
]
