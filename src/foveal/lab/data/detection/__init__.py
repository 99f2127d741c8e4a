"""Images with boxes, and masks of single objects."""

from ._bundle import DetectionBundle, instances_of
from .coco import CocoFolder
from .cutouts import CutoutScenes
from .digits import DigitScenes
from .flag_swap import FlagSwapBoxes
from .nuclei import NucleiInstances

__all__ = ["CocoFolder", "CutoutScenes", "DetectionBundle", "DigitScenes", "FlagSwapBoxes", "NucleiInstances", "instances_of"]
