"""A language model that is shown videos: a frozen tower, visual tokens, and probes that read the tower's layers."""

from .attached import AttachedProbes, attach_probes_, attached_probes, load_attached, save_attached, with_probe_words
from .llama import VideoLlama
from .model import VideoLanguageModel, VisualTokens
from .reader import QuestionReader, VideoLanguage
from .towers import TOWERS, Seen, read_tower

__all__ = [
    "TOWERS",
    "AttachedProbes",
    "QuestionReader",
    "Seen",
    "VideoLanguage",
    "VideoLanguageModel",
    "VideoLlama",
    "VisualTokens",
    "attach_probes_",
    "attached_probes",
    "load_attached",
    "read_tower",
    "save_attached",
    "with_probe_words",
]
