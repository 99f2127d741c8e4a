"""Images as regions: features and boxes of an object detector, with questions or sentences about them."""

from ._bundle import RegionBundle
from ._questions import Question, read_answers, read_pairs, read_questions
from ._sentence_bundle import SentenceBundle
from ._shards import write_regions
from ._tsv import Regions, RegionTsv
from .lxmert import LxmertPairs, LxmertQuestions
from .pretraining import LxmertSentences
from .scenes import RegionScenes
from .sentences import RegionSentences

__all__ = [
    "LxmertPairs",
    "LxmertQuestions",
    "LxmertSentences",
    "Question",
    "RegionBundle",
    "RegionScenes",
    "RegionSentences",
    "RegionTsv",
    "Regions",
    "SentenceBundle",
    "read_answers",
    "read_pairs",
    "read_questions",
    "write_regions",
]
