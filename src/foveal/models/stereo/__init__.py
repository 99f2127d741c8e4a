"""Stereo networks: disparity out of a pair of images, with any attention or none."""

from .psmnet import PSMNet, PyramidStereoNet, cost_volume

__all__ = ["PSMNet", "PyramidStereoNet", "cost_volume"]
