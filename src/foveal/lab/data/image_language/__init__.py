"""Composed scenes of known things with captions, and with questions; and readers of published captions and questions."""

from ._answers import ImageAnswerBundle
from ._bundle import CaptionBundle
from .captions import SceneCaptions
from .coco_captions import CocoCaptions
from .questions import SceneQuestions
from .vqa import VQAv2

__all__ = ["CaptionBundle", "CocoCaptions", "ImageAnswerBundle", "SceneCaptions", "SceneQuestions", "VQAv2"]
