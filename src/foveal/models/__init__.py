"""The published hosts: the vision transformer, DnA ViT, on video TimeSformer, T2T-ViT with EAMLP, CATT's encoder, and CaaM's networks."""

from .caam import CausalBlock, CausalResNet, EnvironmentHeads, GatedBlock, SplitBlock, Streams, TwoStreamBlock
from .caam_classifiers import CausalResNetClassifier, CausalT2TViT
from .catt import CattEncoder, CattLayer
from .dna_vit import DenoisingViT
from .t2t import T2T, T2T_SIZES, T2TViT, eamlp
from .timesformer import TimeSformer, inflate_
from .vit import SIZES, VisionTransformer, ViT, share_initial_weights_

__all__ = [
    "SIZES",
    "T2T",
    "T2T_SIZES",
    "CattEncoder",
    "CattLayer",
    "CausalBlock",
    "CausalResNet",
    "CausalResNetClassifier",
    "CausalT2TViT",
    "DenoisingViT",
    "EnvironmentHeads",
    "GatedBlock",
    "SplitBlock",
    "Streams",
    "T2TViT",
    "TimeSformer",
    "TwoStreamBlock",
    "ViT",
    "VisionTransformer",
    "eamlp",
    "inflate_",
    "share_initial_weights_",
]
