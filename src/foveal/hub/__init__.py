"""Whole models in a folder or on the Hugging Face hub: how the model is built, what was converted, the weights, and a card. Never pickled code."""

from ._card import Card
from ._folder import from_pretrained, push_to_hub, save_pretrained

__all__ = ["Card", "from_pretrained", "push_to_hub", "save_pretrained"]
