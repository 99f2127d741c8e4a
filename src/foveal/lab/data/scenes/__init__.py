"""Composed scenes of known things with captions, and with questions; and readers of published captions and questions."""

from ._bundle import CaptionBundle
from .captions import SceneCaptions

__all__ = ["CaptionBundle", "SceneCaptions"]
