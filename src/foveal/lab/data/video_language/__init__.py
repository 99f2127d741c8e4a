"""Clips with questions in words, and the tower that looks at them."""

from ._bundle import AnswerBundle
from .clip_questions import ClipQuestions

__all__ = ["AnswerBundle", "ClipQuestions"]
