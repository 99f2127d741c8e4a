"""LXMERT of transformers with CATT's dictionaries, and heads that answer."""

from .attach import CattLxmert, catt_lxmert_, unreached
from .config import Lxmert
from .heads import LxmertReader, PairHead
from .pretraining import LxmertPretrainer, LxmertPretraining
from .streams import CattLxmertEncoder, CattParts, Cross, Mode, Second, Start

__all__ = [
    "CattLxmert",
    "CattLxmertEncoder",
    "CattParts",
    "Cross",
    "Lxmert",
    "LxmertPretrainer",
    "LxmertPretraining",
    "LxmertReader",
    "Mode",
    "PairHead",
    "Second",
    "Start",
    "catt_lxmert_",
    "unreached",
]
