"""A language model that is shown videos: a frozen tower, visual tokens, and probes that read the tower's layers."""

from .model import VideoLanguageModel, VisualTokens
from .reader import QuestionReader, VideoLanguage
from .towers import TOWERS, Seen, read_tower

__all__ = ["TOWERS", "QuestionReader", "Seen", "VideoLanguage", "VideoLanguageModel", "VisualTokens", "read_tower"]
