"""Attentions of classes that nobody declared, read by their structure and believed only where numbers say so.

What makes queries, keys, values and the output, in how many heads, of what scale, with which positions and masks, is found on a copy with weights of its own,
run on what the module is given at its place in the model; then ours, built from what was found, has to give what the copy gives on other tokens.
"""

from ._kept import kept_of
from ._mapped import NOTHING, Chain, Mapped, NoMap, Summed
from ._read import Structures, structures_of
from ._recalled import recalled
from ._shown import ANOTHER_KIND, NO_MAPS, NO_OUTPUT_MAP, NO_SOFTMAX
from ._sister import sisters_in

__all__ = [
    "ANOTHER_KIND",
    "NOTHING",
    "NO_MAPS",
    "NO_OUTPUT_MAP",
    "NO_SOFTMAX",
    "Chain",
    "Mapped",
    "NoMap",
    "Structures",
    "Summed",
    "kept_of",
    "recalled",
    "sisters_in",
    "structures_of",
]
