"""Pairs of images with the disparity of every pixel of the left one."""

from ._bundle import StereoBundle
from .benchmarks import KITTIStereo, MiddleburyStereo, SceneFlow
from .scenes import SCENES, StereoScene, read_scene
from .shifts import Shifted, ShiftStereo, shifted_pair

__all__ = ["SCENES", "KITTIStereo", "MiddleburyStereo", "SceneFlow", "ShiftStereo", "Shifted", "StereoBundle", "StereoScene", "read_scene", "shifted_pair"]
