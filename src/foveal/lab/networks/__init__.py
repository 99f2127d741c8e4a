"""Other people's classifiers as models of recipes: where they come from, and what is put into them."""

from ._sources import Preparation, Source, find_source
from ._widened import WIDE
from .pretrained import Pretrained, base_digest

__all__ = ["WIDE", "Preparation", "Pretrained", "Source", "base_digest", "find_source"]
