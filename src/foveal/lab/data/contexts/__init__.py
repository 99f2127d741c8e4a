"""Sets in which a class is mostly met in one context, and tested in others."""

from .digits import ContextedDigits
from .imagenet9 import ImageNet9
from .nico import NICO

__all__ = ["NICO", "ContextedDigits", "ImageNet9"]
