"""Composed scenes of known things with captions, and with questions; and readers of published captions and questions."""

from ._answers import ImageAnswerBundle
from ._bundle import CaptionBundle
from .captions import SceneCaptions
from .questions import SceneQuestions

__all__ = ["CaptionBundle", "ImageAnswerBundle", "SceneCaptions", "SceneQuestions"]
