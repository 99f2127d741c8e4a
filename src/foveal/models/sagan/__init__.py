"""SAGAN: a generator and a discriminator of images, with any attention by name in both."""

from .config import SAGAN, GeneratorDiscriminator
from .discriminator import SAGANDiscriminator
from .generator import SAGANGenerator
from .maps import GanLook, gan_attention
from .mixer import GanMixer, list_gan_mixers
from .spectral import power_iterate_
from .statistics import batch_statistics, standing_statistics
from .strengths import strengths

__all__ = [
    "SAGAN",
    "GanLook",
    "GanMixer",
    "GeneratorDiscriminator",
    "SAGANDiscriminator",
    "SAGANGenerator",
    "batch_statistics",
    "gan_attention",
    "list_gan_mixers",
    "power_iterate_",
    "standing_statistics",
    "strengths",
]
