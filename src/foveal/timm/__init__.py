"""Importing this registers the published networks with timm, under ``fov_``: then ``timm.create_model("fov_dna_vit_base_patch16_224")`` works.

``timm.list_models("fov_*")`` lists them; ``python -m foveal.timm`` prints what each costs beside what its paper says. Nothing of timm's own is replaced.
"""

from . import caam, dna_vit, efficient_resnet, halonet, t2t_vit, timesformer
from ._register import PUBLISHED, Published
from .model import TimmModel
from .video import VideoTransformer

__all__ = ["PUBLISHED", "Published", "TimmModel", "VideoTransformer", "caam", "dna_vit", "efficient_resnet", "halonet", "t2t_vit", "timesformer"]
