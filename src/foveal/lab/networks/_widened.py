"""The network's own softmax attention with more heads and the function that it had: as many weights as what is put in, and nothing else of it."""

__all__ = ["WIDE"]

WIDE = "softmax-wide"
"""What recipes call it, in the place of a registered attention; its option is ``num_heads``."""
