"""Data: one file per kind of set, embedded real data first, folders beside it."""

from . import _extra  # noqa: F401  # the first: it says which package is missing
from ._bundle import DATA, Data, DataBundle, SceneMasks, Split, register_data, seed_of
from ._fetch import SOURCES, cache_folder, fetch
from .cluttered import ClutteredDigits
from .contexts import NICO, ContextedDigits, ImageNet9
from .cutouts import Cutouts
from .detection import CocoFolder, CutoutScenes, DetectionBundle, DigitScenes, FlagSwapBoxes, NucleiInstances, instances_of
from .digits import Digits, list_digit_sources, load_digits
from .emoji import Emoji
from .folder import ImageFolder
from .generation import ColorMatch, DigitImages, ImageBundle
from .generation_files import CIFAR10Files, FolderImages, TinyImageNet
from .image_language import CaptionBundle, CocoCaptions, ImageAnswerBundle, SceneCaptions, SceneQuestions, VQAv2
from .imagenet import ImageNet
from .photographs import Photographs
from .points import Furniture, ModelNet40H5, ModelNet40Off, ModelNet40Txt, PointBundle, ShapeNetPartH5, ShapeNetPartTxt, SolidPairs, Solids
from .regions import LxmertPairs, LxmertQuestions, LxmertSentences, RegionBundle, RegionScenes, RegionSentences, SentenceBundle, write_regions
from .segmentation import (
    ADE20K,
    IGNORE,
    ISPRS,
    BrainSlabs,
    Cityscapes,
    FlagSwap,
    MaskFolder,
    Nuclei,
    PascalVOC,
    SegmentationBundle,
    read_brain,
    read_nuclei,
)
from .stereo import (
    SCENES,
    KITTIStereo,
    MiddleburyStereo,
    SceneFlow,
    Shifted,
    ShiftStereo,
    StereoBundle,
    StereoScene,
    read_scene,
    shifted_pair,
)
from .video import MocapClips, MovingDigits, VideoBundle, VideoFolder
from .video_language import AnswerBundle, ClipConversations, ClipQuestions, ConversationBundle, VideoConversations, read_conversations

__all__ = [
    "ADE20K",
    "DATA",
    "IGNORE",
    "ISPRS",
    "NICO",
    "SCENES",
    "SOURCES",
    "AnswerBundle",
    "BrainSlabs",
    "CIFAR10Files",
    "CaptionBundle",
    "Cityscapes",
    "ClipConversations",
    "ClipQuestions",
    "ClutteredDigits",
    "CocoCaptions",
    "CocoFolder",
    "ColorMatch",
    "ContextedDigits",
    "ConversationBundle",
    "CutoutScenes",
    "Cutouts",
    "Data",
    "DataBundle",
    "DetectionBundle",
    "DigitImages",
    "DigitScenes",
    "Digits",
    "Emoji",
    "FlagSwap",
    "FlagSwapBoxes",
    "FolderImages",
    "Furniture",
    "ImageAnswerBundle",
    "ImageBundle",
    "ImageFolder",
    "ImageNet",
    "ImageNet9",
    "KITTIStereo",
    "LxmertPairs",
    "LxmertQuestions",
    "LxmertSentences",
    "MaskFolder",
    "MiddleburyStereo",
    "MocapClips",
    "ModelNet40H5",
    "ModelNet40Off",
    "ModelNet40Txt",
    "MovingDigits",
    "Nuclei",
    "NucleiInstances",
    "PascalVOC",
    "Photographs",
    "PointBundle",
    "RegionBundle",
    "RegionScenes",
    "RegionSentences",
    "SceneCaptions",
    "SceneFlow",
    "SceneMasks",
    "SceneQuestions",
    "SegmentationBundle",
    "SentenceBundle",
    "ShapeNetPartH5",
    "ShapeNetPartTxt",
    "ShiftStereo",
    "Shifted",
    "SolidPairs",
    "Solids",
    "Split",
    "StereoBundle",
    "StereoScene",
    "TinyImageNet",
    "VQAv2",
    "VideoBundle",
    "VideoConversations",
    "VideoFolder",
    "cache_folder",
    "fetch",
    "instances_of",
    "list_digit_sources",
    "load_digits",
    "read_brain",
    "read_conversations",
    "read_nuclei",
    "read_scene",
    "register_data",
    "seed_of",
    "shifted_pair",
    "write_regions",
]
