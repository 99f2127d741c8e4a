"""Looking and measuring: attention maps, principal angles, cost."""

from .angles import HeadAngles, chance_angles, lambdas, neighbour_angles, principal_angles, value_angles, value_overlap
from .cost import cost, latency, peak_memory
from .maps import attention_maps, mass_on, patch_mask

__all__ = [
    "HeadAngles",
    "attention_maps",
    "chance_angles",
    "cost",
    "lambdas",
    "latency",
    "mass_on",
    "neighbour_angles",
    "patch_mask",
    "peak_memory",
    "principal_angles",
    "value_angles",
    "value_overlap",
]
