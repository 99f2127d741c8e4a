"""Images as regions: features and boxes of an object detector, with questions or sentences about them."""

from ._bundle import RegionBundle
from ._questions import Question, read_answers, read_pairs, read_questions
from ._shards import write_regions
from ._tsv import Regions, RegionTsv
from .lxmert import LxmertPairs, LxmertQuestions
from .scenes import RegionScenes

__all__ = [
    "LxmertPairs",
    "LxmertQuestions",
    "Question",
    "RegionBundle",
    "RegionScenes",
    "RegionTsv",
    "Regions",
    "read_answers",
    "read_pairs",
    "read_questions",
    "write_regions",
]
