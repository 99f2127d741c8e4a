"""What captions are worth: CIDEr-D, BLEU, and what they name that is not there."""

from .cider import CiderD, document_frequencies
from .coco import coco_scores
from .hallucination import Hallucination, hallucination
from .scores import CaptionScores

__all__ = ["CaptionScores", "CiderD", "Hallucination", "coco_scores", "document_frequencies", "hallucination"]
