"""Images with boxes, and masks of single objects."""

from ._bundle import DetectionBundle, instances_of
from .digits import DigitScenes
from .flag_swap import FlagSwapBoxes
from .nuclei import NucleiInstances

__all__ = ["DetectionBundle", "DigitScenes", "FlagSwapBoxes", "NucleiInstances", "instances_of"]
