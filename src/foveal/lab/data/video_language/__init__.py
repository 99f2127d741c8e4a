"""Clips with questions in words, and the tower that looks at them."""

from ._bundle import AnswerBundle
from ._conversations import Conversation, read_conversations
from .clip_questions import ClipQuestions
from .conversations import ClipConversations, ConversationBundle, VideoConversations

__all__ = ["AnswerBundle", "ClipConversations", "ClipQuestions", "Conversation", "ConversationBundle", "VideoConversations", "read_conversations"]
