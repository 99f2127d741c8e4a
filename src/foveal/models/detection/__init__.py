"""Detectors, each with any attention or none in the places where pixels can meet."""

from .small import SmallDetector, SmallDetectorNet

__all__ = ["SmallDetector", "SmallDetectorNet"]
