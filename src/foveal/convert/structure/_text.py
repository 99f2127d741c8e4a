"""Attentions over words, which are left alone."""

from torch import nn

from ..._errors import InputError
from .._layouts import above

__all__ = ["refuse_text"]

_OF_IMAGES = ("patch_size", "image_size", "vision_config", "backbone_config", "num_channels", "cross_attention_frequency")
"""What a configuration says where it is not of words alone; the last of transformers that read images by learned queries (BLIP-2, arXiv 2301.12597)."""


def refuse_text(model: nn.Module, name: str) -> None:
    """By the nearest configuration above.

    Raises:
        ValueError: it is one of text alone.
    """
    for owner in (model.get_submodule(name), *above(model, name)):
        config = getattr(owner, "config", None)
        if config is None or isinstance(config, nn.Module):
            continue
        if hasattr(config, "vocab_size") and not any(hasattr(config, key) for key in _OF_IMAGES):
            raise InputError(f"{name} reads text, which is left alone; name a place in images, for example with where='vision_model.*'")
        return
