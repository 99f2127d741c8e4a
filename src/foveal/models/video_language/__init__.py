"""A language model that is shown videos: a frozen tower, visual tokens, and probes that read the tower's layers."""

from .model import VideoLanguageModel, VisualTokens
from .towers import TOWERS, Seen, read_tower

__all__ = ["TOWERS", "Seen", "VideoLanguageModel", "VisualTokens", "read_tower"]
