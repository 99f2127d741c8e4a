"""Detectors, each with any attention or none in the places where pixels can meet."""

from .hosts import EFFICIENT_PLACES, Detector, PyramidDetector
from .small import SmallDetector, SmallDetectorNet

__all__ = ["EFFICIENT_PLACES", "Detector", "PyramidDetector", "SmallDetector", "SmallDetectorNet"]
