"""Networks that say what is seen in regions of an image, with or without CATT's second stream; and how words are found one after the other."""

from .config import Captioner, ImageAnswerer
from .decoding import Said, WordDecoder, beam_search, greedy_search, sample_words
from .mcan import McanAnswerer
from .second import Catt, Second, SecondOptions
from .transformer import TransformerCaptioner
from .updown import UpDownCaptioner
from .updown_answers import UpDownAnswerer

__all__ = [
    "Captioner",
    "Catt",
    "ImageAnswerer",
    "McanAnswerer",
    "Said",
    "Second",
    "SecondOptions",
    "TransformerCaptioner",
    "UpDownAnswerer",
    "UpDownCaptioner",
    "WordDecoder",
    "beam_search",
    "greedy_search",
    "sample_words",
]
