"""Attentions of classes that nobody declared, read by their structure and believed only where numbers say so.

What makes queries, keys, values and the output, in how many heads, of what scale, with which positions and masks, is found on a copy with weights of its own,
run on what the module is given at its place in the model; then ours, built from what was found, has to give what the copy gives on other tokens.
"""

from ._read import NO_OUTPUT_MAP, Structures, sisters_in, structures_of

__all__ = ["NO_OUTPUT_MAP", "Structures", "sisters_in", "structures_of"]
